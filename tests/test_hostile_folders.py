"""Results folders that are damaged, linked, shared, killed or in the way: said, or made again."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer, tiny_transformers

from figures import __main__ as figures
from step_saliency import cli
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.map_file import map_file
from step_saliency.runs.overview import overview
from step_saliency.runs.pages import write_reports
from step_saliency.runs.settings import MapSettings
from step_saliency.saliency import map_files
from step_saliency.saliency.result import StepSaliency
from step_saliency.storage import files
from step_saliency.storage.files import WriteError, append_bytes, remove_old_parts, write_text
from step_saliency.storage.lock import FolderLock
from step_saliency.storage.names import earlier_file_name, file_name
from step_saliency.storage.traces import load_jsonl
from tests.maps import make_saliency, make_trace, random_maps

IDS = ("one", "two", "three")
FORK = multiprocessing.get_context("fork")


def a_map(name: str, seed: int = 0) -> StepSaliency:
    trace = make_trace("_QTTTSS", id=name, meta={"problem": name, "is_correct": True})
    return make_saliency(random_maps(trace, 4, seed=seed), trace)


def hand_made(path: Path, **facts: Any) -> RunFolder:
    """A finished folder of three maps, without a model."""
    with RunFolder.open(path, MapSettings().to_dict()) as folder:
        for seed, name in enumerate(IDS):
            a_map(name, seed).save(folder.map(name))
        facts = {"settings": MapSettings().to_dict(), "names": list(IDS), "finished": True} | facts
        folder.write_manifest(facts)
        folder.append_generated("x#0", "d", a_map("x").trace)
    return folder


def edit_header(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a map again with another header over the same numbers."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def edit_description(change: Callable[[dict[str, Any]], object], version: int) -> Any:
    """A change of what a map says of itself, in a file of an earlier or of this version."""

    def apply(header: dict[str, Any]) -> None:
        metadata = header["__metadata__"]
        fields = json.loads(metadata["saliency"])
        change(fields)
        metadata["saliency"] = json.dumps(fields)
        if version == 1:
            metadata["format"] = map_files.EARLIER_FORMATS[0]
            del metadata["sha256"]

    return lambda file: edit_header(file, apply)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "steps": lambda f: f["trace"].update(starts=list(range(20_000)), regions=["thinking"] * 20_000),
    "many layers": lambda f: f.update(n_layers=10**12),
    "layers in millions": lambda f: f.update(n_layers=10**7),
    "half a layer": lambda f: f.update(n_layers=1.5),
    "layers as text": lambda f: f.update(n_layers="four"),
    "no layer": lambda f: f.update(layers=[]),
    "other layers": lambda f: f.update(layers=[0, 1]),
    "layers beyond": lambda f: f.update(layers=[0, 1, 2, 9]),
    "pool": lambda f: f.update(pool="median"),
    "no pool": lambda f: f.pop("pool"),
    "rows": lambda f: f.update(rows="columns"),
    "unknown": lambda f: f.update(colour="red"),
    "windows": lambda f: f.update(windows=[0, 3, None, None]),
    "few windows": lambda f: f.update(windows=[3]),
    "no trace": lambda f: f.pop("trace"),
    "id": lambda f: f["trace"].update(id=3),
    "texts": lambda f: f["trace"].update(texts=[1] * 7),
    "meta": lambda f: f["trace"].update(meta=["x"]),
    "tokens": lambda f: f["trace"].update(tokens=[2**80] * 14),
    "another's": lambda f: f["trace"].update(id="three"),
    "other settings": lambda f: f.update(objective="log_odds"),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", CHANGES)
def test_a_map_that_says_wrong_things_is_named(tmp_path: Path, name: str, version: int) -> None:
    folder = hand_made(tmp_path / "run")
    edit_description(CHANGES[name], version)(folder.map("two"))
    assert folder.read_map("two") is None
    for use in (overview, write_reports):
        with pytest.raises(ValueError, match=r"1 of 3 maps .* \(two\)"):
            use(folder.path)


def test_a_changed_word_or_number_is_noticed_by_the_digest(tmp_path: Path) -> None:
    folder = hand_made(tmp_path / "run")
    edit_description(lambda f: f["trace"].update(response="another"), 2)(folder.map("two"))
    assert folder.read_map("two") is None
    data = bytearray(folder.map("one").read_bytes())
    data[-3] ^= 1
    folder.map("one").write_bytes(data)
    with pytest.raises(ValueError, match=r"2 of 3 maps .* \(one, two\)"):
        overview(folder.path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.1])
def test_maps_are_finite_and_not_negative(tmp_path: Path, number: float) -> None:
    sal = a_map("one")
    sal.maps[1, 3, 2] = number
    with pytest.raises(ValueError, match=r"NaN|negative"):
        sal.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
    whole = tmp_path / "b.safetensors"
    a_map("one").save(whole)
    edit_description(lambda f: None, 1)(whole)
    assert torch.equal(StepSaliency.load(whole).maps, a_map("one").maps)
    data = bytearray(whole.read_bytes())
    data[-4:] = struct.pack("<f", number)
    whole.write_bytes(data)
    with pytest.raises(ValueError, match=r"NaN|negative"):
        StepSaliency.load(whole)


@pytest.mark.parametrize("maps", [torch.zeros(4, 7, 7).int(), torch.zeros(4, 2, 2), torch.zeros(5)])
def test_maps_of_other_types_and_shapes_are_refused(tmp_path: Path, maps: torch.Tensor) -> None:
    folder = hand_made(tmp_path / "run")
    file = folder.map("one")
    header = json.loads(file.read_bytes()[8:][: struct.unpack("<Q", file.read_bytes()[:8])[0]])
    save_file({"maps": maps}, file, metadata=header["__metadata__"])
    assert load_file(file)["maps"].shape == maps.shape
    with pytest.raises(ValueError, match=r"\(one\).*its maps"):
        overview(folder.path)


def in_the_way(file: Path, kind: str) -> None:
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        with file.open("wb") as stream:
            stream.truncate(40 * 2**30)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "sparse"])
def test_what_is_no_file_is_refused_unopened(tmp_path: Path, kind: str) -> None:
    folder = hand_made(tmp_path / "run")
    in_the_way(folder.map("two"), kind)
    with pytest.raises(ValueError, match=r"\(two\)"):
        overview(folder.path)
    if kind != "sparse":
        with pytest.raises(WriteError, match=f"a {kind} is in the way"):
            a_map("two").save(folder.map("two"))
        in_the_way(folder.path / "generated.jsonl", kind)
        with pytest.raises(ValueError, match=f"is a {kind}, not a file"):
            folder.read_generated({"x": "d"})
        with pytest.raises(WriteError, match=f"a {kind} is in the way"):
            folder.append_generated("y#0", "d", a_map("y").trace)
        with pytest.raises(ValueError, match=f"is a {kind}"):
            load_jsonl(folder.path / "generated.jsonl")
    in_the_way(folder.path / "manifest.json", kind)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        overview(folder.path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": "step-saliency-run/1"}', "\xff", '"text"', "null"]
)
def test_manifests_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    folder = hand_made(tmp_path / "run")
    (folder.path / "manifest.json").write_text(text)
    for command in (["diagnose", str(folder.path)], ["report", str(folder.path)]):
        assert cli.main(command) == 2
    with pytest.raises(ValueError, match="manifest"):
        RunFolder.open(folder.path, MapSettings().to_dict())


def test_damaged_answers_are_left_out_with_a_word(tmp_path: Path) -> None:
    folder = hand_made(tmp_path / "run")
    folder.append_generated("y#0", "d", a_map("y").trace)
    file = folder.path / "generated.jsonl"
    good = file.read_bytes().splitlines()
    bad = [
        good[1].replace(b'"T2"', b'"T3"'),
        b"\xff\xfe",
        b'{"name": "y#0", "row_digest": "d"}',
        b'{"name": "y#0", "row_digest": "d", "trace": 3}',
        b"[" * 50_000,
    ]
    assert bad[0] != good[1]
    file.write_bytes(b"\n".join([good[0], *bad]) + b"\n")
    with pytest.warns(UserWarning, match="5 damaged lines"):
        answers = folder.read_generated({"x": "d", "y": "d"})
    assert set(answers) == {"x#0"}


def test_stale_maps_are_not_counted(tmp_path: Path) -> None:
    folder = hand_made(tmp_path / "run", names=["one", "three"])
    text = str(overview(folder.path))
    assert "2 traces" in text
    assert "1 maps of an earlier input are not counted" in text
    folder.map("three").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 maps .* \(three\)"):
        overview(folder.path)
    old = hand_made(tmp_path / "old", names=None)
    assert len(old.all_maps()) == 3


def test_ids_have_names_of_their_own(tmp_path: Path) -> None:
    ids = ["a", "a-0", "a~0", "a#0", "", "x", "x.depth", ".x", "x.", "x y", "x_y", "X/Y", "con"]
    ids += ["中" * 100, "中" * 101, "é", "e\u0301", "z" * 300, "z" * 301, "../../etc", "\ud800"]
    ids += sorted({file_name(row) for row in ids} - set(ids))
    names = [file_name(row) for row in ids] + [file_name(row, 0) for row in ids]
    assert len(set(names)) == len(names)
    assert file_name("a", 0) == "a~0"
    for name in names:
        write_text(tmp_path / f"{name}.safetensors", name)
    assert {file.read_text() for file in tmp_path.iterdir()} == set(names)


def test_files_of_old_names_are_read(tmp_path: Path) -> None:
    folder = hand_made(tmp_path / "run", names=None)
    for row, sample in (("a b", None), ("q", 1)):
        old = earlier_file_name(row, sample)
        a_map(row if sample is None else f"{row}#{sample}").save(folder.map(old))
        assert folder.name_of(row, sample) == old
    assert folder.name_of("q-1") == "q-1"
    assert folder.read_map("q-1", row="q-1") is None
    assert len(folder.all_maps()) == 5


def test_one_run_writes_at_a_time(tmp_path: Path) -> None:
    settings = MapSettings().to_dict()
    held = RunFolder.open(tmp_path / "run", settings)
    with pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on .* since 20"):
        RunFolder.open(tmp_path / "run", settings)
    held.close()
    with RunFolder.open(tmp_path / "run", settings):
        pass

    def hold() -> None:
        with FolderLock(tmp_path / "run"):
            time.sleep(60)

    other = FORK.Process(target=hold)
    other.start()
    for _ in range(600):
        lock = tmp_path / "run" / ".lock"
        if lock.exists() and str(other.pid) in lock.read_text():
            break
        time.sleep(0.05)
    with pytest.raises(ValueError, match=f"in use by process {other.pid}"):
        RunFolder.open(tmp_path / "run", settings)
    other.kill()
    other.join()
    RunFolder.open(tmp_path / "run", settings).close()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "note").write_text("mine")
    for name in ("maps", "figures"):
        run = tmp_path / f"run-{name}"
        hand_made(run)
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).symlink_to(outside)
        with pytest.raises(ValueError, match="is a link to another place"):
            RunFolder.open(run, MapSettings().to_dict())
    run = hand_made(tmp_path / "run").path
    (run / "report").symlink_to(outside)
    with pytest.raises(ValueError, match="is a link to another place"):
        write_reports(run)
    (run / "generated.jsonl").unlink()
    (run / "generated.jsonl").symlink_to(outside / "note")
    with pytest.raises(WriteError, match="a link to another place"):
        append_bytes(run / "generated.jsonl", b"x")
    (run / "diagnosis.parquet").symlink_to(outside / "note")
    overview(run)
    (tmp_path / "loose").symlink_to(tmp_path / "absent")
    with pytest.raises(ValueError, match="link to nowhere"):
        RunFolder.open(tmp_path / "loose", MapSettings().to_dict())
    assert [(file.name, file.read_text()) for file in outside.iterdir()] == [("note", "mine")]


def test_left_over_parts_go_and_others_stay(tmp_path: Path) -> None:
    done = FORK.Process(target=int)
    done.start()
    done.join()
    own = files._part_name()
    left = own.replace(f".{os.getpid()}.", f".{done.pid}.")
    names = [own, left, ".a.png.1.part", ".b.png.1.part", "thesis.part"]
    for name in names:
        (tmp_path / name).write_text("x")
    for name in (".b.png.1.part", "thesis.part"):
        os.utime(tmp_path / name, (0, 0))
    remove_old_parts(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {own, ".a.png.1.part", "thesis.part"}


def test_a_killed_start_is_taken_up(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", MapSettings().to_dict()).close()
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"maps"}
    (tmp_path / "run" / ".lock").write_text("of a killed run")
    RunFolder.open(tmp_path / "run", MapSettings(pool="mass").to_dict()).close()
    (tmp_path / "run" / "maps" / "mine").write_text("x")
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        RunFolder.open(tmp_path / "run", MapSettings().to_dict())


@pytest.mark.parametrize("name", ["diagnosis.parquet", "report"])
def test_a_thing_in_the_way_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = hand_made(tmp_path / "run").path
    in_the_way(run / name, "folder" if name != "report" else "pipe")
    assert cli.main(["report" if name == "report" else "diagnose", str(run)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_reports_do_not_take_over_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = hand_made(tmp_path / "run").path
    mine = tmp_path / "mine.html"
    mine.write_text("my notes")
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "d.html").mkdir()
    for out in (mine, tmp_path / "rows.jsonl", tmp_path / "d.html", Path("/proc/x.html")):
        assert cli.main(["report", str(run), "--trace", "one", "--out", str(out)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert mine.read_text() == "my notes"
    for _ in range(2):
        page = str(tmp_path / "page.html")
        assert cli.main(["report", str(run), "--trace", "one", "--out", page]) == 0


def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lines"
    append_bytes(file, b"first\n")
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 8:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(WriteError, match="No space left on device"):
        append_bytes(file, b"a second line that is longer\n")
    monkeypatch.undo()
    assert file.read_bytes() == b"first\n"


def mutate(folder: Path, chance: random.Random) -> str:
    """Damage one file of a folder in one way."""
    place = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    data = bytearray(place.read_bytes())
    other = chance.choice(sorted((folder / "maps").iterdir()))
    kind = chance.choice(["flip", "flips", "cut", "swap", "link", "gone", "grown", "zeros"])
    if kind in ("flip", "flips") and data:
        for _ in range(1 if kind == "flip" else 20):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        place.write_bytes(data)
    elif kind == "cut":
        place.write_bytes(data[: chance.randrange(len(data) + 1)])
    elif kind == "grown":
        place.write_bytes(data + bytes(chance.randrange(1, 100)))
    elif kind == "zeros" and data:
        start = chance.randrange(len(data))
        data[start : start + 16] = bytes(len(data[start : start + 16]))
        place.write_bytes(data)
    elif kind in ("swap", "link", "gone"):
        text = other.read_bytes()
        place.unlink()
        if kind == "swap":
            place.write_bytes(text)
        elif kind == "link":
            place.symlink_to(other if other != place else folder / "absent")
    return f"{kind} {place.name}"


def mutations(tmp_path: Path, n: int) -> None:
    whole = hand_made(tmp_path / "whole").path
    expected = {
        name: (sal.maps, sal.trace.to_dict()) for name, sal in RunFolder(whole).maps().items()
    }
    answers = a_map("x").trace.to_dict()
    refused = []
    for seed in range(n):
        folder = tmp_path / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        what = f"{seed}: {mutate(folder, random.Random(seed))}"
        try:
            maps = RunFolder.existing(folder).maps()
        except ValueError as error:
            refused.append(str(error))
            maps = {}
        for name in IDS:
            saved = RunFolder(folder).read_map(name) if not maps else maps.get(name)
            if saved is not None:
                assert torch.equal(saved.maps, expected[name][0]), what
                assert saved.trace.to_dict() == expected[name][1], what
        if (folder / "generated.jsonl").is_file():
            read = RunFolder(folder).read_generated({"x": "d"})
            assert all(trace.to_dict() == answers for trace in read.values()), what
    assert len(refused) > n // 3
    assert not any("\n" in line for line in refused)


@pytest.mark.filterwarnings("ignore:.*damaged lines")
def test_mutated_folders(tmp_path: Path) -> None:
    mutations(tmp_path, 100)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:.*damaged lines")
def test_many_mutated_folders(tmp_path: Path) -> None:
    mutations(tmp_path, 2000)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    given = [
        {
            "id": f"r{i}",
            "question": "3 + 4?",
            "response": f"We add {i}. It is 7.</think>So it is 7.",
        }
        for i in range(4)
    ]
    asked = [{"id": f"q{i}", "question": f"What is {i} and 4?", "answer": "7"} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*given, *asked]))
    return file


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_transformers("qwen2", n_ctx=192).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def settings(model_folder: Path) -> MapSettings:
    return MapSettings(
        model=str(model_folder),
        max_new_tokens=12,
        n=2,
        temperature=1.0,
        figures=False,
        batch_size=2,
    )


@pytest.fixture(scope="module")
def unbroken(rows: Path, settings: MapSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    map_file(rows, out, settings, progress=False)
    return out


def content(out: Path) -> dict[str, Any]:
    """What a run says: numbers of maps, answers, tables."""
    maps = {name: sal.maps.numpy().tobytes() for name, sal in RunFolder(out).maps().items()}
    lines = sorted((out / "generated.jsonl").read_text().splitlines())
    tables = {
        name: pd.read_parquet(out / f"{name}.parquet").to_json()
        for name in ("traces", "saliency", "diagnosis", "failures")
    }
    return {"maps": maps, "lines": lines, **tables}


def in_child(rows: Path, out: Path, settings: MapSettings, told: Any = None) -> Any:
    """A process that maps; it puts what refused it into a queue."""

    def work() -> None:
        torch.set_num_threads(1)
        try:
            map_file(rows, out, settings, progress=False)
        except ValueError as error:
            if told is not None:
                told.put(str(error))

    process = FORK.Process(target=work)
    process.start()
    return process


def kills(rows: Path, unbroken: Path, settings: MapSettings, out: Path, n: int) -> None:
    chance = random.Random(n)
    for number in range(n):
        process = in_child(rows, out, settings)
        started = time.time()
        process.join(chance.uniform(0.0, 2.0))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert time.time() - started < 60
        if number % 5 == 4:
            report = map_file(rows, out, settings, progress=False)
            assert not report.failures
            assert content(out) == content(unbroken)
            assert not list(out.rglob("*.part"))
            shutil.rmtree(out)


def test_random_kills(rows: Path, unbroken: Path, settings: MapSettings, tmp_path: Path) -> None:
    kills(rows, unbroken, settings, tmp_path / "run", 5)


@pytest.mark.nightly
def test_many_random_kills(
    rows: Path, unbroken: Path, settings: MapSettings, tmp_path: Path
) -> None:
    kills(rows, unbroken, settings, tmp_path / "run", 50)


def pairs(rows: Path, unbroken: Path, settings: MapSettings, place: Path, n: int) -> None:
    for number in range(n):
        out, told = place / f"run{number}", FORK.Queue()
        first = in_child(rows, out, settings, told)
        time.sleep(0.02 * number)
        second = in_child(rows, out, settings, told)
        first.join(120)
        second.join(120)
        assert content(out) == content(unbroken)
        while not told.empty():
            assert "in use by" in told.get()


def test_pairs_of_processes(
    rows: Path, unbroken: Path, settings: MapSettings, tmp_path: Path
) -> None:
    pairs(rows, unbroken, settings, tmp_path, 2)


@pytest.mark.nightly
def test_many_pairs_of_processes(
    rows: Path, unbroken: Path, settings: MapSettings, tmp_path: Path
) -> None:
    pairs(rows, unbroken, settings, tmp_path, 20)


def test_damaged_maps_are_made_again(
    rows: Path, unbroken: Path, settings: MapSettings, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    edit_description(CHANGES["meta"], 2)(out / "maps" / "r0.safetensors")
    shutil.copy(out / "maps" / "r2.safetensors", out / "maps" / "r1.safetensors")
    report = map_file(rows, out, settings, progress=False)
    assert (report.done, report.redone, report.kept) == (2, 2, 8)
    assert content(out) == content(unbroken)


def test_another_model_under_the_same_path_is_refused(
    rows: Path, unbroken: Path, settings: MapSettings, model_folder: Path, tmp_path: Path
) -> None:
    out, weights = tmp_path / "run", model_folder / "model.safetensors"
    shutil.copytree(unbroken, out)
    before = weights.read_bytes()
    os.utime(weights)
    assert map_file(rows, out, settings, progress=False).done == 0
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] + 1}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="have changed since"):
        map_file(rows, out, settings, progress=False)
    weights.write_bytes(before)
    assert map_file(rows, out, settings, progress=False).done == 0


def test_a_smaller_input_leaves_no_stale_counts(
    rows: Path, unbroken: Path, settings: MapSettings, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    map_file(rows, out, settings, limit=2, progress=False)
    assert len(RunFolder(out).maps()) == 2
    assert map_file(rows, out, settings, progress=False).kept == 10


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "data-problems.jsonl"
    file.write_text("mine")
    yield file
    assert file.read_text() == "mine"


def test_the_demo_stays_in_its_folder(
    neighbour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from step_saliency.runs import demo as module

    class Stop(Exception):  # noqa: N818
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise Stop

    monkeypatch.setattr(module, "map_file", stop)
    with pytest.raises(Stop):
        module.demo(tmp_path / "data", n_problems=2, progress=False)
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["problems.jsonl"]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "problems.jsonl").write_text("theirs")
    with pytest.raises(ValueError, match="is not the demo's"):
        module.demo(tmp_path / "taken", n_problems=2, progress=False)
    assert (tmp_path / "taken" / "problems.jsonl").read_text() == "theirs"


def test_figures_say_what_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ablation").mkdir()
    (tmp_path / "ablation" / "summary.parquet").write_text("no table")
    assert figures.main(["--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all("its results cannot be read" in line for line in lines)
