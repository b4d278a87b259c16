"""Results folders: what is written, that it is right, and that a broken-off run goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from maps import make_saliency, make_trace, random_maps
from nights import mostly_at_night
from tiny import tiny_tokenizer, tiny_transformers

import step_saliency as ss
from step_saliency import cli
from step_saliency.diagnosis import Bands, diagnose
from step_saliency.runs import answers, figures, mapping
from step_saliency.runs import map_file as runs
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.map_file import map_file
from step_saliency.runs.overview import INDICES, LAYER_METRICS, Overview, overview
from step_saliency.runs.run_report import RunReport
from step_saliency.runs.settings import MapSettings
from step_saliency.runs.tables import _trace_row
from step_saliency.storage.files import is_whole_png

RESPONSE = "We add 3 and 4. That gives 7.</think>The answer is 7."
ROWS: list[Any] = [
    {"id": "a", "question": "3 + 4?", "response": RESPONSE, "gold_answer": "7", "problem_id": "p"},
    {"id": "b", "question": "3 + 4?", "response": RESPONSE.replace("7", "8"), "gold_answer": "7",
     "problem_id": "p"},
    {"messages": [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello to you."},
        {"role": "user", "content": "3 + 4?"},
        {"role": "assistant", "content": RESPONSE},
    ]},
    {"id": "q", "question": "What is 3 and 4?", "answer": "7"},
    "{cut sho",
    {"id": "empty", "question": "q", "response": " "},
    {"id": "long", "question": "q", "response": "word " * 400},
]  # fmt: skip
GOOD = {"a", "b", "rows-00003", "q"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-qwen2")
    tiny_transformers("qwen2", n_ctx=192).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def settings(model_folder: str) -> MapSettings:
    return MapSettings(model=model_folder, max_new_tokens=20, n=1, figures=False)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in ROWS]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(rows: Path, out: Path, settings: MapSettings) -> RunReport:
    return map_file(rows, out, settings, progress=False)


def maps_of(out: Path) -> dict[str, torch.Tensor]:
    return {str(sal.trace.id): sal.maps for sal in RunFolder.existing(out).all_maps()}


def test_everything_is_written_and_right(
    rows: Path, tmp_path: Path, settings: MapSettings, model_folder: str
) -> None:
    """In float64, where traces that share a batch equal traces alone but for what stays in float32.

    A bridge's normalisations are in float32 whatever its dtype, so the bound is 1e-5.
    """
    out = tmp_path / "out"
    report = run(rows, out, replace(settings, figures=True, dtype="float64"))
    assert report.done == 4
    assert {f["row"] for f in report.failures} == {"rows-00005", "empty", "long"}

    model = ss.load_model(model_folder, dtype="float64")
    maps = maps_of(out)
    assert set(maps) == GOOD
    trace = ss.Trace.from_text(model.tokenizer, question="3 + 4?", response=RESPONSE)
    direct = ss.step_saliency(model, trace)
    assert torch.allclose(maps["a"], direct.maps, rtol=1e-5, atol=1e-9)

    saliency = pd.read_parquet(out / "saliency.parquet")
    of_a = saliency[saliency["trace"] == "a"]
    stored = RunFolder.existing(out).read_map("a", row="a", sample=None)
    assert stored is not None
    assert of_a["saliency"].tolist() == stored.to_frame()["saliency"].tolist()
    assert of_a["saliency"].tolist() == pytest.approx(
        direct.to_frame()["saliency"].tolist(), rel=1e-5
    )
    assert set(saliency["trace"]) == GOOD

    traces = pd.read_parquet(out / "traces.parquet").set_index("trace")
    assert traces.loc[["a", "b"], "is_correct"].tolist() == [True, False]
    assert not traces.loc["q", "is_correct"]
    assert traces.loc["a", "n_tokens"] == len(trace)
    assert traces.loc["a", "problem"] == traces.loc["b", "problem"] == "p"

    diagnosis = pd.read_parquet(out / "diagnosis.parquet")
    lock_in = diagnosis[(diagnosis["trace"] == "a") & (diagnosis["metric"] == "lock_in")]
    expected = ss.diagnose(direct).lock_in.tolist()
    assert lock_in["value"].tolist() == pytest.approx(expected, rel=1e-5)

    failures = pd.read_parquet(out / "failures.parquet").set_index("row")
    assert "context 192" in failures.loc["long", "message"]
    assert "empty" in failures.loc["empty", "message"]
    assert "no JSON" in failures.loc["rows-00005", "message"]

    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["finished"] is True
    assert manifest["traces"] == 4
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["model"]["name"] == model_folder
    pictures = sorted(path.name for path in (out / "figures").iterdir())
    assert pictures[:2] == ["a.depth.png", "a.png"]
    assert len(pictures) == 8


def test_second_run_computes_nothing(
    rows: Path, tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(rows, out, settings)
    before = maps_of(out)
    good = [line for line in rows.read_text().splitlines() if '"empty"' not in line]
    rows.write_text("\n".join(line for line in good if '"long"' not in line))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is left to compute")

    monkeypatch.setattr(runs, "load_model", refuse)
    monkeypatch.setattr(mapping, "step_saliency", refuse)
    report = run(rows, out, settings)
    assert (report.done, report.kept) == (0, 4)
    after = maps_of(out)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("share", mostly_at_night([0.0, 0.3, 0.99], 0.3))
def test_files_cut_short_are_redone(
    rows: Path, tmp_path: Path, settings: MapSettings, share: float
) -> None:
    out = tmp_path / "out"
    drawn = replace(settings, figures=True)
    run(rows, out, drawn)
    before = maps_of(out)
    for file in (out / "maps" / "b.safetensors", out / "figures" / "a.png"):
        whole = file.read_bytes()
        file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"1 of 4 maps .* cut short \(b\)"):
        overview(out)
    report = run(rows, out, drawn)
    assert (report.done, report.kept, report.redone) == (1, 3, 1)
    assert torch.equal(maps_of(out)["b"], before["b"])
    assert is_whole_png(out / "figures" / "a.png")


def test_generated_answers_are_kept_and_a_line_cut_short_is_redone(
    rows: Path, tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    two = replace(settings, n=2, temperature=1.0)
    run(rows, out, two)
    before = maps_of(out)
    assert {"q#0", "q#1"} <= set(before)
    file = out / "generated.jsonl"
    whole = file.read_text()
    file.write_text(whole[: int(0.75 * len(whole))])
    calls = []
    original = answers.each_response
    counted = lambda *a, **k: calls.append(a) or original(*a, **k)  # noqa: E731
    monkeypatch.setattr(answers, "each_response", counted)
    run(rows, out, two)
    assert len(calls) == 1
    after = maps_of(out)
    assert all(torch.equal(before[name], after[name]) for name in before)
    run(rows, out, two)
    assert len(calls) == 1


def test_a_changed_row_is_redone(rows: Path, tmp_path: Path, settings: MapSettings) -> None:
    out = tmp_path / "out"
    run(rows, out, settings)
    rows.write_text(rows.read_text().replace("We add 3 and 4.", "We add 4 and 3 now.", 1))
    report = run(rows, out, settings)
    assert (report.done, report.kept) == (1, 3)
    assert "4 and 3 now" in RunFolder(out).read_map("a").trace.response  # type: ignore[union-attr]


def test_other_settings_and_foreign_folders_are_refused(
    rows: Path, tmp_path: Path, settings: MapSettings
) -> None:
    out = tmp_path / "out"
    run(rows, out, settings)
    with pytest.raises(ValueError, match=r"other settings \(pool: 'mean' then, 'mass' now\)"):
        run(rows, out, replace(settings, pool="mass"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("important")
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        run(rows, foreign, settings)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    for use in (lambda: run(rows, out, settings), lambda: overview(out)):
        with pytest.raises(ValueError, match="cut short or damaged"):
            use()


def test_a_run_that_could_read_no_row_gives_way_to_one_with_other_settings(
    rows: Path, tmp_path: Path, settings: MapSettings
) -> None:
    out = tmp_path / "out"
    wrong = replace(settings, fields={"response": "nope"})
    assert run(rows, out, wrong).done == 0
    with pytest.raises(ValueError, match="holds no map yet"):
        figures.draw_figures(out, progress=False)
    with pytest.raises(ValueError, match="holds no map yet"):
        figures.draw_figures(out, trace="a", progress=False)
    assert run(rows, out, settings).done == len(GOOD)
    with pytest.raises(ValueError, match="other settings"):
        run(rows, out, wrong)


def test_command_line(
    rows: Path, tmp_path: Path, model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    command = ["map", str(rows), "--out", out, "--model", model_folder, "--max-new-tokens", "20"]
    assert cli.main([*command, "--quiet", "--no-figures", "--pool", "mass"]) == 0
    printed = capsys.readouterr()
    assert "4 traces mapped" in printed.out
    assert "3 failed" in printed.out
    assert cli.main(["diagnose", out, "--shallow", "0", "--deep", "2"]) == 0
    printed = capsys.readouterr()
    assert "4 traces: 1 correct" in printed.out
    assert "lock_in_index" in printed.out
    assert cli.main(["doctor", model_folder]) == 0
    assert "score_edits" in capsys.readouterr().out


def test_the_overview_says_what_its_intervals_are_and_fits_a_terminal(tmp_path: Path) -> None:
    layers = [{"layer": n, "metric": m, "estimate": 0.1} for n in (0, 1) for m in LAYER_METRICS]
    numbers = dict.fromkeys(("estimate", "lower", "upper", "n", "p_value", "auroc"), 0.5)
    rows = [{"metric": m, "control": c, **numbers} for m in INDICES for c in ("none", "regression")]
    text = str(
        Overview(
            folder=tmp_path,
            bands=Bands.quarters(2),
            n_traces=(4, 2, 2),
            by_layer=pd.DataFrame(layers),
            comparison=pd.DataFrame(rows),
            missing=None,
        )
    )
    assert "means over traces" in text
    assert "lower, upper: 95% bootstrap by problem" in text
    assert "n: problems" in text
    assert max(map(len, text.splitlines())) < 80


def test_the_overview_says_why_there_is_no_decay(tmp_path: Path) -> None:
    """A response without a summary: the column stays, and the reason stands above it."""
    out = tmp_path / "run"
    trace = replace(make_trace("QTTT"), id="a")
    with RunFolder.open(out, MapSettings().to_dict()) as folder:
        make_saliency(random_maps(trace, 4), trace).save(folder.map("a"))
        folder.write_manifest({"settings": MapSettings().to_dict(), "names": ["a"]})
    text = str(overview(out))
    assert "no decay in any trace: the trace has no summary steps" in text
    assert "no lock_in" not in text
    (heading,) = (line.split() for line in text.splitlines() if line.strip().startswith("band"))
    assert heading == ["band", "decay", "lock_in"]


def test_a_model_that_fails_its_checks_is_refused(
    rows: Path, tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = runs.load_model

    def broken(*args: Any, **options: Any) -> Any:
        model = original(*args, **options)
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)
        return model

    monkeypatch.setattr(runs, "load_model", broken)
    with pytest.raises(ValueError, match="gradients"):
        run(rows, tmp_path / "out", settings)


def test_figures_are_drawn_when_asked_for(
    rows: Path, tmp_path: Path, settings: MapSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what is missing, cut short or older than its map."""
    out = tmp_path / "out"
    run(rows, out, settings)
    assert not (out / "figures").exists()
    assert cli.main(["figures", str(out), "--trace", "a", "--quiet"]) == 0
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["a.depth.png", "a.png"]
    assert cli.main(["figures", str(out), "--quiet"]) == 0
    assert "2 figures drawn" in (printed := capsys.readouterr().out)
    assert "6 figures drawn" in printed
    whole = (out / "figures" / "b.png").read_bytes()
    (out / "figures" / "b.png").write_bytes(whole[:-9])
    sal = RunFolder(out).whole_map("q")
    sal.save(RunFolder(out).map("q"))
    drawn = {path.name for path in figures.draw_figures(out, progress=False)}
    assert drawn == {"b.png", "b.depth.png", "q.png", "q.depth.png"}
    assert (out / "figures" / "b.png").read_bytes() == whole
    assert figures.draw_figures(out, progress=False) == []
    with pytest.raises(ValueError, match="limit=-1 is below 1"):
        figures.draw_figures(out, limit=-1, progress=False)
    with pytest.raises(ValueError, match="no trace 'z'; there are 4: a, b"):
        figures.draw_figures(out, trace="z")


def long_rows(path: Path, n: int) -> Path:
    """Responses of many lengths."""
    lines = [
        json.dumps({"id": f"r{i}", "question": "3 + 4?", "response": "We add. " * i + RESPONSE})
        for i in range(1, n + 1)
    ]
    path.write_text("\n".join(lines))
    return path


def test_a_map_does_not_depend_on_its_batch(
    tmp_path: Path, settings: MapSettings, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, sizes = long_rows(tmp_path / "rows.jsonl", 9), []
    original = mapping.step_saliency

    def counted(model: Any, traces: Any, **options: Any) -> Any:
        sizes.append(len(traces))
        return original(model, traces, **options)

    monkeypatch.setattr(mapping, "step_saliency", counted)
    run(rows, tmp_path / "out", settings)
    together = maps_of(tmp_path / "out")
    assert sizes == [9]
    model = ss.load_model(model_folder)
    for sal in RunFolder.existing(tmp_path / "out").all_maps():
        alone = ss.step_saliency(model, sal.trace, method="hooks")
        largest = float(alone.maps.max())
        torch.testing.assert_close(
            together[str(sal.trace.id)], alone.maps, rtol=1e-4, atol=1e-6 * largest
        )


def test_a_broken_off_run_ends_in_the_same_maps(
    tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: batches are those of the input, whatever of it is there."""
    monkeypatch.setattr(mapping, "BATCH_TOKENS", 200)
    rows = long_rows(tmp_path / "rows.jsonl", 9)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(rows, whole, settings)
    run(rows, broken, settings)
    for name in ("r2", "r7"):
        RunFolder(broken).map(name).unlink()
    report = run(rows, broken, settings)
    assert (report.done, report.kept) == (2, 7)
    assert all(torch.equal(maps_of(broken)[name], maps) for name, maps in maps_of(whole).items())


def test_a_bad_trace_of_a_batch_fails_alone(
    tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = mapping.step_saliency

    def faulty(model: Any, traces: Any, **options: Any) -> Any:
        if any(trace.id == "r3" for trace in traces):
            raise RuntimeError("out of memory")
        return original(model, traces, **options)

    monkeypatch.setattr(mapping, "step_saliency", faulty)
    report = run(long_rows(tmp_path / "rows.jsonl", 5), tmp_path / "out", settings)
    assert report.done == 4
    assert [(f["row"], f["stage"], f["message"]) for f in report.failures] == [
        ("r3", "map", "out of memory")
    ]


def test_what_cannot_be_written_ends_the_run(
    tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another thread was to write it."""

    def full(self: Any, path: Any) -> None:
        raise OSError(28, f"no space left for {path}")

    monkeypatch.setattr(ss.StepSaliency, "save", full)
    with pytest.raises(OSError, match="no space left"):
        run(long_rows(tmp_path / "rows.jsonl", 3), tmp_path / "out", settings)


def test_rows_of_traces_whose_facts_differ_in_type_are_one_table(tmp_path: Path) -> None:
    def row(**meta: Any) -> dict[str, Any]:
        trace = make_trace("QTTS", [2, 3, 2, 3], id="a", meta=meta)
        sal = make_saliency(random_maps(trace, 2, 1), trace)
        return _trace_row(sal, diagnose(sal))

    rows = [row(gold_answer=12, finished=True), row(gold_answer="12", finished="length")]
    pd.DataFrame(rows).to_parquet(tmp_path / "traces.parquet")
    assert [row["gold_answer"] for row in rows] == ["12", "12"]
    assert [row["finished"] for row in rows] == [True, None]
