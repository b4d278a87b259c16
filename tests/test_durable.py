"""Generations that are killed and taken up again; files that are not this run's."""

import importlib
import importlib.util
import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import BACKENDS, tiny_tokenizer, tiny_transformers

import step_saliency as ss
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.storage.described import described
from step_saliency.storage.lines import append_line, mend, read_lines
from step_saliency.storage.lock import LogLock
from step_saliency.storage.trace_log import TraceLog

QUESTIONS = [f"What is {a} and {b}?" for a in range(4) for b in range(5)]
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 10,
    "temperature": 1.0,
    "n": 2,
    "batch_size": 8,
    "format": "plain",
    "progress": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qwen2")
    tiny_transformers("qwen2", n_ctx=768).save_pretrained(made)
    tiny_tokenizer().save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return ss.load_model(folder)


def script() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "durability.py"
    spec = importlib.util.spec_from_file_location("durability", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["durability"] = module
    spec.loader.exec_module(module)
    return module


def test_killed_in_the_middle_and_taken_up(folder: Path, tmp_path: Path) -> None:
    """A real SIGKILL of a process that decodes with StepFlow; the script that shows it at scale."""
    durability = script()
    args = Namespace(model=str(folder), count=48, tokens=24, batch=4, seed=1)
    broken, unbroken = tmp_path / "broken.jsonl", tmp_path / "unbroken.jsonl"
    n_killed = durability.kill_in_the_middle(broken, args)
    assert 24 <= n_killed < 48
    durability.finish(broken, args)
    durability.finish(unbroken, args)
    assert durability.compare(broken, unbroken) == {"lost": 0, "twice": 0, "changed": 0}
    assert len(ss.load_jsonl(unbroken)) == 48
    again = unbroken.read_text().splitlines()
    unbroken.write_text("\n".join([*again[2:], again[5], again[6].replace("[1", "[3")]) + "\n")
    assert durability.compare(unbroken, broken) == {"lost": 2, "twice": 2, "changed": 1}


def test_a_broken_off_file_is_completed_with_the_same_texts(model: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    traces = ss.generate(model, QUESTIONS, save_to=whole, **OPTIONS)
    expected = [trace.to_dict() for trace in traces]
    assert expected == [trace.to_dict() for trace in ss.generate(model, QUESTIONS, **OPTIONS)]
    by_name = {(t["meta"]["question_index"], t["meta"]["sample"]): t for t in read_lines(whole)}
    assert [by_name[divmod(i, 2)] for i in range(40)] == expected
    lines = whole.read_bytes().split(b"\n")
    for n_lines, rest in ((0, b""), (13, b""), (21, lines[21][:-9]), (21, lines[21])):
        whole.write_bytes(b"".join(line + b"\n" for line in lines[:n_lines]) + rest)
        taken_up = ss.generate(model, QUESTIONS, save_to=whole, **OPTIONS)
        assert [trace.to_dict() for trace in taken_up] == expected
        assert sorted(whole.read_bytes().split(b"\n")) == sorted(lines)


def test_a_finished_file_needs_no_decoding_and_may_grow(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "answers.jsonl"
    few = ss.generate(model, QUESTIONS[:5], save_to=file, **OPTIONS)
    more = ss.generate(model, QUESTIONS[:9], save_to=file, **{**OPTIONS, "n": 3})
    known = {trace.question: trace for trace in few}
    assert all(
        t.tokens.tolist() in [f.tokens.tolist() for f in few]
        for t in more
        if t.question in known and t.meta["sample"] < 2
    )
    assert len(list(read_lines(file))) == 27
    module = importlib.import_module("step_saliency.decoding.generate")
    monkeypatch.setattr(module, "choose_loop", lambda *_: pytest.fail("decodes"))
    again = ss.generate(model, QUESTIONS[:9], save_to=file, **{**OPTIONS, "n": 3})
    assert [t.to_dict() for t in again] == [t.to_dict() for t in more]


@pytest.mark.parametrize("method", ["hooks", "fast"])
def test_effects_of_a_run_that_is_broken_off_are_counted(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """What is taken from the file afterwards adds nothing, and a warning says so."""
    flow, file = OddsEqualBridge([0], tau_max=0.4, current="step"), tmp_path / "answers.jsonl"
    options = {**OPTIONS, "format": "think", "method": method, "batch_size": 1, "n": 1}
    append, before = TraceLog.append, Effects()

    def stopped(log: TraceLog, trace: ss.Trace) -> None:
        append(log, trace)
        raise KeyboardInterrupt

    monkeypatch.setattr(TraceLog, "append", stopped)
    with pytest.raises(KeyboardInterrupt):
        ss.generate(model, QUESTIONS[:2], flow=flow, save_to=file, effects=before, **options)
    monkeypatch.setattr(TraceLog, "append", append)
    assert rows_seen(before) > 0
    after, whole = Effects(), Effects()
    with pytest.warns(UserWarning, match=r"1 of 2 responses are taken from .* nothing to effects="):
        ss.generate(model, QUESTIONS[:2], flow=flow, save_to=file, effects=after, **options)
    ss.generate(model, QUESTIONS[:2], flow=flow, effects=whole, **options)
    assert rows_seen(before) + rows_seen(after) == rows_seen(whole)


def rows_seen(effects: Effects) -> int:
    return int(effects.doses()["rows_seen"].sum())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temperature": 0.5}, "temperature: 1.0 then, 0.5 now"),
        ({"seed": 3}, "seed: 0 then, 3 now"),
        ({"stop_texts": ["."]}, "stop_texts"),
        ({"flow": OddsEqualBridge([0], tau_max=0.2)}, "flow: .*0.1.* then, .*0.2.* now"),
        ({"flow": None}, "flow"),
    ],
)
def test_other_settings_are_refused(
    model: Any, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    file = tmp_path / "answers.jsonl"
    options = {**OPTIONS, "flow": OddsEqualBridge([0], tau_max=0.1)}
    ss.generate(model, QUESTIONS[:1], save_to=file, **options)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=told):
        ss.generate(model, QUESTIONS[:1], save_to=file, **{**options, **change})
    assert file.read_bytes() == before


OLD_SETTINGS = """{
  "format": "step-saliency-generation/1",
  "settings": {
    "model": {
      "class": "hooked",
      "origin": {
        "class": "Origin",
        "gguf_file": null,
        "name": "FOLDER",
        "process_weights": false,
        "revision": null,
        "source": "FOLDER",
        "trust_remote_code": false
      },
      "weights": "91ed15d9afe034db",
      "dtype": "torch.float32"
    },
    "flow": FLOW,
    "method": "fast",
    "class": "Sampler",
    "temperature": 1.0,
    "top_k": 7,
    "top_p": 1.0,
    "max_new_tokens": 10,
    "seed": 2,
    "system": "Be brief.",
    "format": "plain",
    "splitter": "line",
    "stop_tokens": [0, 1, 2],
    "stop_texts": ["x"]
  }
}"""
"""As they were written when `generate` had a parameter for every option."""
OLD_OEB = """{
  "class": "OddsEqualBridge",
  "bridge": "auto",
  "current": "region",
  "heads": null,
  "layers": [0],
  "placebo": null,
  "seed": 0,
  "tau_max": 0.15
}"""
OLD_SMI = """{
  "class": "StepMomentumInjection",
  "alpha": 0.06,
  "bank": null,
  "boundaries": "step",
  "layers": [2],
  "momentum": "step",
  "needs_resid": false,
  "needs_resid_pre": true,
  "needs_values": true,
  "seed": 0,
  "site": "z",
  "source": "value",
  "space": "value",
  "window": null
}"""
OLD_FLOW = f"""{{
  "class": "StepFlow",
  "edits": [{OLD_OEB}, {OLD_SMI}],
  "oeb": {OLD_OEB},
  "smi": {OLD_SMI}
}}"""


@pytest.mark.skipif("hooked" not in BACKENDS, reason="those logs are of HookedTransformers")
@pytest.mark.parametrize("flow", ["null", OLD_FLOW])
def test_logs_of_earlier_versions_are_taken_up(
    model: Any, folder: Path, tmp_path: Path, flow: str
) -> None:
    options: dict[str, Any] = {
        **OPTIONS,
        "flow": None if flow == "null" else ss.StepFlow.for_model(model),
        "method": "fast",
        "top_k": 7,
        "seed": 2,
        "system": "Be brief.",
        "splitter": "line",
        "stop_tokens": range(3),
        "stop_texts": "x",
    }
    whole = tmp_path / "whole.jsonl"
    traces = ss.generate(model, QUESTIONS[:4], save_to=whole, **options)
    old = tmp_path / "old.jsonl"
    settings = OLD_SETTINGS.replace("FOLDER", str(folder)).replace("FLOW", flow)
    (tmp_path / "old.jsonl.settings.json").write_text(settings)
    old.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:3]))
    taken_up = ss.generate(model, QUESTIONS[:4], save_to=old, **options)
    assert [trace.to_dict() for trace in taken_up] == [trace.to_dict() for trace in traces]
    assert (tmp_path / "old.jsonl.settings.json").read_text() == settings
    new = json.loads((tmp_path / "whole.jsonl.settings.json").read_text())
    assert new["settings"].pop("all_weights")
    assert new == json.loads(settings)


def test_one_call_writes_a_file_at_a_time(model: Any, tmp_path: Path) -> None:
    file = tmp_path / "new" / "log.jsonl"
    with (
        LogLock(file),
        pytest.raises(
            ValueError, match=rf"log\.jsonl is in use by process {os.getpid()} on .* since"
        ),
    ):
        ss.generate(model, QUESTIONS[:1], save_to=file, **OPTIONS)
    assert not file.exists()
    assert len(ss.generate(model, QUESTIONS[:1], save_to=file, **OPTIONS)) == 2
    assert {found.name for found in file.parent.iterdir()} == {
        "log.jsonl",
        "log.jsonl.settings.json",
    }


def test_other_models_questions_and_files_are_refused(
    model: Any, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    ss.generate(model, QUESTIONS[:2], save_to=file, **OPTIONS)
    with pytest.raises(
        ValueError, match="an answer to 'What is 0 and 1\\?', but question 1 is 'x'"
    ):
        ss.generate(model, [QUESTIONS[0], "x"], save_to=file, **OPTIONS)
    other = tiny_transformers("qwen2", seed=1)
    with pytest.raises(ValueError, match=r"model: .* then, .* now"):
        ss.generate(other, QUESTIONS[:2], save_to=file, tokenizer=tiny_tokenizer(), **OPTIONS)
    strange = tmp_path / "notes.jsonl"
    strange.write_text("{}\n")
    with pytest.raises(ValueError, match="not known what the file was made with"):
        ss.generate(model, QUESTIONS[:2], save_to=strange, **OPTIONS)


def test_lines_are_whole_or_gone(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    assert list(read_lines(file)) == []
    mend(file)
    for cut in range(1, 12):
        file.write_bytes(b'{"a": 1}\n' + b'{"b": 2}\n'[:cut])
        append_line(file, {"c": 3})
        wanted = [{"a": 1}, *([{"b": 2}] if cut >= 8 else []), {"c": 3}]
        assert [json.loads(line) for line in file.read_text().splitlines()] == wanted
        assert list(read_lines(file)) == wanted


def test_descriptions_are_the_same_in_every_process() -> None:
    class Plain:
        def __init__(self) -> None:
            self.heads = (1, 2)
            self.by_depth = test_lines_are_whole_or_gone
            self._hidden = object()

    text = json.dumps(described({"x": Plain(), "s": {3, 1}}))
    assert text == json.dumps(described({"x": Plain(), "s": {1, 3}}))
    assert "0x" not in text
    assert "_hidden" not in text
    assert "test_lines_are_whole_or_gone" in text


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_settings_do_not_tell_is_kept_in_no_log(
    folder: Path, tmp_path: Path, backend: Any
) -> None:
    """Hooks, attached edits; and a change of one number in a thousand is another model."""
    model, file = ss.load_model(folder, backend=backend), tmp_path / "log.jsonl"
    options = {"save_to": file, "max_new_tokens": 2, "progress": False}
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda resid, hook: -resid)]),
        pytest.raises(ValueError, match=r"know nothing of hooks at .*blocks\.1\.hook_resid_post"),
    ):
        ss.generate(model, QUESTIONS[:1], **options)
    handle = model.blocks[1].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="know nothing of hooks at"):
        ss.generate(model, QUESTIONS[:1], **options)
    handle.remove()
    with (
        OddsEqualBridge([0], tau_max=0.9).attached(model),
        pytest.raises(ValueError, match="edits that are attached already"),
    ):
        ss.generate(model, QUESTIONS[:1], **options)
    assert not file.exists()
    ss.generate(model, QUESTIONS[:1], **options)
    weight = max(model.blocks[1].mlp.parameters(), key=lambda own: own.numel())
    with torch.no_grad():
        weight[(1,) * weight.ndim] += 1.0
    with pytest.raises(ValueError, match="weights"):
        ss.generate(model, QUESTIONS[:1], **options)
    with torch.no_grad():
        weight[(1,) * weight.ndim] -= 1.0


def test_all_numbers_of_an_edit_are_told() -> None:
    vectors = torch.zeros(2, 4096)
    vectors[0, 7], vectors[1, 8] = 1, 1
    assert described(vectors[0]) != described(vectors[1])
    assert described(vectors[0]) == described(vectors[0].clone())
    assert described(vectors[0].bfloat16()) == described(vectors[0].bfloat16())
