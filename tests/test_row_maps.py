"""Files in public forms give the maps of the same traces in our own; judgements beside ours."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from row_forms import FORMS, OWN, TEXT, WRONG, lines
from safetensors.torch import load_file
from tiny import tiny_tokenizer, tiny_transformers

import step_saliency as ss
from step_saliency import cli
from step_saliency.runs import answers, mapping
from step_saliency.runs import map_file as runs
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.map_file import map_file
from step_saliency.runs.settings import MapSettings


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-qwen2")
    tiny_transformers("qwen2", n_ctx=512).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(model_folder: str) -> Any:
    return ss.load_model(model_folder)


@pytest.fixture(autouse=True)
def one_load(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "load_model", lambda *_, **__: model)


@pytest.fixture
def settings(model_folder: str) -> MapSettings:
    return MapSettings(model=model_folder, max_new_tokens=8, figures=False)


def maps_of(rows: str, folder: Path, settings: MapSettings) -> dict[str, ss.StepSaliency]:
    file = folder.with_suffix(".jsonl")
    file.write_text(rows, encoding="utf-8")
    map_file(file, folder, settings, progress=False, say=lambda line: None)
    return {str(sal.trace.id): sal for sal in RunFolder.existing(folder).all_maps()}


def test_public_forms_give_our_own_maps(tmp_path: Path, settings: MapSettings) -> None:
    own = maps_of(lines({**OWN, "id": "own"}), tmp_path / "own", settings)["own"]
    rows = [{**row, "id": name} for name, (row, _) in FORMS.items()]
    together = maps_of(lines(*rows), tmp_path / "forms", settings)
    assert set(together) == set(FORMS)
    for row in rows:
        name = row["id"]
        assert together[name].trace.steps == own.trace.steps, name
        sal = maps_of(lines(row), tmp_path / name, settings)[name]  # alone, as our own form was
        assert sal.trace.tokens.tolist() == own.trace.tokens.tolist(), name
        assert sal.trace.steps == own.trace.steps, name
        assert torch.equal(sal.maps, own.maps), name
        if name != "conversations":
            assert sal.trace.meta["gold_answer"] == "14"
            assert sal.trace.meta["is_correct"] is True


@pytest.mark.nightly
def test_a_file_of_each_form_gives_the_numbers_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command on a file of its own for each form, with the bundled model: equal to the bit."""
    reasoner = ss.load_model("reasoner")
    monkeypatch.setattr(runs, "load_model", lambda *_, **__: reasoner)

    def stored(name: str, row: dict[str, Any]) -> bytes:
        file = tmp_path / f"{name}.jsonl"
        file.write_text(lines({**row, "id": "a"}))
        out = tmp_path / f"maps of {name}"
        assert cli.main(["map", str(file), "--out", str(out), "--quiet", "--no-figures"]) == 0
        numbers = load_file(out / "maps" / "a.safetensors")["maps"]
        return numbers.numpy().tobytes()

    own = stored("own", OWN)
    assert len(FORMS) >= 10
    for name, (row, form) in FORMS.items():
        assert stored(name, row) == own, name
        assert capsys.readouterr().out.count(f"1 row read as {form}") == 1
    other = stored("other", {**OWN, "response": WRONG})
    assert other != own


def test_a_response_that_nothing_asked_for_is_mapped_without_a_question(
    tmp_path: Path, settings: MapSettings
) -> None:
    row = {**FORMS["completion"][0], "id": "a"}
    del row["messages"]
    (sal,) = maps_of(lines(row), tmp_path / "out", settings).values()
    assert not sal.trace.region_steps("question")
    assert sal.trace.region_steps("thinking")
    assert sal.trace.region_steps("summary")
    assert sal.trace.meta["is_correct"] is True


def test_thinking_in_a_field_keeps_its_marks_whatever_the_format(
    tmp_path: Path, settings: MapSettings
) -> None:
    row = {**FORMS["reasoning and solution"][0], "id": "a"}
    plain = MapSettings(**{**vars(settings), "format": "plain"})
    (sal,) = maps_of(lines(row), tmp_path / "out", plain).values()
    assert sal.trace.region_steps("thinking")
    assert sal.trace.region_steps("summary")


def test_a_saved_trace_keeps_its_tokens_and_steps(
    tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, where traces that share a batch are equal to traces alone in all digits kept."""
    model = ss.load_model(settings.model, dtype="float64")
    monkeypatch.setattr(runs, "load_model", lambda *_, **__: model)
    settings = replace(settings, dtype="float64")
    trace = ss.Trace.from_text(
        model.tokenizer, question="3 + 4?", response="3 and\u2028 4.</think>7", id="t"
    )
    one_each = trace.with_steps(starts=range(len(trace)))
    ss.save_jsonl(tmp_path / "saved.jsonl", [one_each])
    steps = [
        {"start": step.start, "stop": step.stop, "region": str(step.region)}
        for step in one_each.steps
    ]
    short = {"id": "short", "tokens": one_each.tokens.tolist(), "steps": steps}
    text = (tmp_path / "saved.jsonl").read_text(encoding="utf-8") + lines(short)
    maps = maps_of(text, tmp_path / "out", settings)
    direct = ss.step_saliency(model, one_each)
    for name in ("t", "short"):
        assert maps[name].trace.n_steps == len(trace)
        assert torch.allclose(maps[name].maps, direct.maps, rtol=1e-5, atol=1e-9)


def test_judgements_stand_beside_ours(tmp_path: Path, settings: MapSettings) -> None:
    stated = [True, "False", "True", 0, "maybe", ["x"], None]
    rows = [
        {**OWN, "id": f"r{i}", "response": WRONG if i == 2 else TEXT, "is_correct": value}
        for i, value in enumerate(stated)
    ]
    rows.append({**OWN, "id": "word", "gold_answer": "unreadable?!"})
    maps_of(lines(*rows), tmp_path / "out", settings)
    table = pd.read_parquet(tmp_path / "out" / "traces.parquet").set_index("trace")
    correct = [None if pd.isna(value) else bool(value) for value in table["is_correct"]]
    assert correct[:7] == [True, False, True, False, True, True, True]
    maps = {str(sal.trace.id): sal for sal in RunFolder.existing(tmp_path / "out").all_maps()}
    meta = maps["r1"].trace.meta
    assert (meta["stated_correct"], meta["graded_correct"]) == (False, True)
    assert maps["r4"].trace.meta["stated_correct"] is None


def test_whatever_a_row_does_is_its_own_failure(
    tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = mapping.trace_of_row

    def faulty(row: Any, *args: Any, **options: Any) -> Any:
        if row.id == "bad":
            raise TypeError("no template for this")
        return original(row, *args, **options)

    monkeypatch.setattr(mapping, "trace_of_row", faulty)
    rows = [{**OWN, "id": "bad"}, {**OWN, "id": "good"}]
    assert set(maps_of(lines(*rows), tmp_path / "out", settings)) == {"good"}
    failures = pd.read_parquet(tmp_path / "out" / "failures.parquet")
    assert failures[["row", "error"]].values.tolist() == [["bad", "TypeError"]]


def test_a_faulty_question_fails_alone(
    tmp_path: Path, settings: MapSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = answers.each_response

    def faulty(model: Any, questions: list[str], *args: Any, **options: Any) -> Any:
        if any("bad" in question for question in questions):
            raise KeyError("template")
        return original(model, questions, *args, **options)

    monkeypatch.setattr(answers, "each_response", faulty)
    asked = ["2 + 2?", "bad one?", "3 + 3?", "4 + 4?", "5 + 5?"]
    rows = [{"id": name, "question": text} for name, text in zip("abcde", asked, strict=True)]
    assert set(maps_of(lines(*rows), tmp_path / "out", settings)) == {*"acde"}


@pytest.mark.parametrize(
    ("option", "value"),
    [("format", "harmny"), ("splitter", "words"), ("dtype", "float8"), ("device", "gpu9")],
)
def test_options_are_checked_before_anything_is_made(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(lines(OWN))
    out = tmp_path / "out"
    assert cli.main(["map", str(file), "--out", str(out), f"--{option}", value]) == 2
    printed = capsys.readouterr()
    assert value in printed.err
    assert printed.err.count("\n") == 1
    assert not out.exists()


def test_the_command_line_says_what_it_read(
    tmp_path: Path, model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.jsonl"
    rows = [{"asked": OWN["question"], "said": TEXT, "right": 14, "other_response": "x"}] * 2
    file.write_text(lines(*rows))
    command = ["map", str(file), "--out", str(tmp_path / "out"), "--model", model_folder]
    fields = ["--field", "question=asked,response=said", "--field", "gold=right"]
    assert cli.main([*command, *fields, "--quiet", "--no-figures"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 rows read as questions and responses"
    assert "other_response (2 rows)" in printed[1]
    table = pd.read_parquet(tmp_path / "out" / "traces.parquet")
    assert table["is_correct"].tolist() == [True, True]
    assert cli.main([*command, "--quiet", "--no-figures"]) == 2
    assert "other settings (fields" in capsys.readouterr().err


def test_a_line_counts_judgements_that_differ(
    tmp_path: Path, model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {**OWN, "id": "a", "is_correct": True},
        {**OWN, "id": "b", "is_correct": False},
        {**OWN, "id": "c"},
        {**OWN, "id": "d", "response": "<think>I do not know"},
        {**OWN, "id": "e", "gold_answer": None, "is_correct": "False"},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text(lines(*rows))
    command = ["map", str(file), "--out", str(tmp_path / "out"), "--model", model_folder]
    assert cli.main([*command, "--quiet", "--no-figures"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "2 right, 2 wrong, 1 unknown; 3 judgements came with the rows and count: 1 of the 2 that "
        "we judged too differ"
    )
    file.write_text(lines({**OWN, "gold_answer": None}))
    command[3] = str(tmp_path / "none")
    assert cli.main([*command, "--quiet", "--no-figures"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 traces mapped")


GRADER = """
def close(part, gold):
    return abs(int("".join(filter(str.isdigit, part))) - int(gold or 0)) < 2

def three(a, b, c):
    return True

def lost(part, gold):
    raise KeyError(part)
"""


def test_a_grading_function_at_the_command_line(
    tmp_path: Path,
    model_folder: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grader = tmp_path / "my_grader.py"
    grader.write_text(GRADER)
    file = tmp_path / "in.jsonl"
    file.write_text(lines(*({**OWN, "id": str(gold), "gold_answer": gold} for gold in (15, 19))))
    out = tmp_path / "out"
    command = ["map", str(file), "--out", str(out), "--model", model_folder, "--quiet"]
    command += ["--no-figures", "--grade"]
    for name, message in {
        "close": "write MODULE:FUNCTION",
        f"{tmp_path}/lost.py:close": "there is no file",
        f"{grader}:far": "no function 'far'",
        f"{grader}:three": "must take two texts",
        "no_such_module:close": "No module named 'no_such_module'",
    }.items():
        assert cli.main([*command, name]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not out.exists()
    assert cli.main([*command, f"{grader}:close"]) == 0
    table = pd.read_parquet(out / "traces.parquet").set_index("trace")
    assert table["graded_correct"].to_dict() == {"15": True, "19": False}
    assert cli.main([*command, f"{grader}:close"]) == 0
    assert "0 traces mapped, 2 kept" in capsys.readouterr().out
    grader.write_text(GRADER.replace("< 2", "< 9"))
    assert cli.main([*command, f"{grader}:close"]) == 2
    assert "other settings (grade" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    command[3] = str(tmp_path / "by-module")
    assert cli.main([*command, "my_grader:close"]) == 0
    table = pd.read_parquet(tmp_path / "by-module" / "traces.parquet")
    assert table["graded_correct"].tolist() == [True, True]
    command[3] = str(tmp_path / "failing")
    assert cli.main([*command, "my_grader:lost"]) == 1
    assert "grade my_grader:lost: KeyError" in capsys.readouterr().err


def test_layers_that_the_model_lacks_are_refused_before_it_answers(
    tmp_path: Path, model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(lines({"question": "2 + 2?", "answer": "4"}))
    out = tmp_path / "out"
    command = ["map", str(file), "--out", str(out), "--model", model_folder, "--quiet"]
    assert cli.main([*command, "--layers", "0,90"]) == 2
    assert "layers=[90]: the model has layers 0 to" in capsys.readouterr().err
    assert not (out / "manifest.json").exists()
    assert cli.main([*command, "--layers", "0", "--no-figures", "--max-new-tokens", "4"]) == 0
    with pytest.raises(SystemExit):
        cli.main([*command, "--layers", "3-1"])


def test_a_sample_that_is_there_is_not_written_again(tmp_path: Path, settings: MapSettings) -> None:
    two = MapSettings(**{**vars(settings), "n": 2})
    row = lines({"id": "a", "question": "2 + 2?", "answer": "4"})
    maps_of(row, tmp_path / "out", two)
    log = tmp_path / "out" / "generated.jsonl"
    whole = log.read_text().splitlines()
    log.write_text(whole[0] + "\n")
    maps_of(row, tmp_path / "out", two)
    assert log.read_text().splitlines() == whole


def test_public_case_of_saved_steps(
    shared_data: Path, tmp_path: Path, settings: MapSettings
) -> None:
    cases = map(json.loads, (shared_data / "public_cases.jsonl").read_text().splitlines())
    row = next(case["input"] for case in cases if case["id"] == "A17-saved-trace")
    (sal,) = maps_of(lines(row), tmp_path / "out", settings).values()
    assert sal.trace.starts == row["starts"]
