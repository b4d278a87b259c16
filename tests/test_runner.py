"""Resumable, seeded runs: same bytes however they are run, and nothing lost by a kill."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

import step_saliency as ss
from analyses.running import runner, tables, workers
from analyses.running.cost import Cost, counted
from analyses.running.folder import AnalysisFolder
from analyses.running.runner import Analysis, Results, Unit, run_analysis, unit_seed
from analyses.running.settings import Settings
from step_saliency.models.identity import weights_digest
from step_saliency.storage.lock import FolderLock
from step_saliency.tasks import make_problems
from tests import toy_analysis
from tests.toy_analysis import ANALYSIS, KILL, LOG, ToySettings, load

ROOT = Path(__file__).parents[1]
SETTINGS = ToySettings(n=5, seed=3)
LONG = 1800
"""Seconds that no machine should need."""


def run(out: Path, settings: ToySettings = SETTINGS, **more: Any) -> Results:
    return run_analysis(ANALYSIS, settings, out=out, load=load, progress=False, **more)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".json"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "toy"
    run(folder)
    return folder


def in_new_process(code: str, **environment: str) -> subprocess.Popen:
    python_path = os.pathsep.join(map(str, [ROOT, ROOT / "tests"]))
    return subprocess.Popen(
        [sys.executable, "-c", f"if __name__ == '__main__':\n    {code}"],
        env={**os.environ, "PYTHONPATH": python_path, **environment},
        cwd=ROOT,
    )


def call(out: Path, settings: ToySettings = SETTINGS, n_workers: int = 1) -> str:
    return (
        "from analyses.running.runner import run_analysis; "
        "from tests.toy_analysis import ANALYSIS, ToySettings, load; "
        f"run_analysis(ANALYSIS, {settings!r}, out={str(out)!r}, load=load, workers={n_workers}, "
        "progress=False)"
    )


def test_tables_are_the_units_in_their_order(finished):
    values = pd.read_parquet(finished / "values.parquet")
    assert values["problem"].tolist() == [f"p{i}" for i in range(5) for _ in range(2)]
    assert values["layer"].dtype == "Int64"
    assert values["note"].isna().tolist() == [i % 2 == 1 for i in range(5) for _ in range(2)]
    summary = pd.read_csv(finished / "summary.csv")
    assert summary["draw"].tolist() == pytest.approx(
        values.groupby("problem")["draw"].mean().tolist(), abs=1e-5
    )
    assert not (finished / "parts").exists()


def test_two_processes_give_the_same_bytes_as_one(finished, tmp_path):
    run(tmp_path / "toy", workers=2)
    assert bytes_of(tmp_path / "toy") == bytes_of(finished)


def test_another_number_of_threads_before_changes_nothing_and_is_restored(finished, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(tmp_path / "toy")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert bytes_of(tmp_path / "toy") == bytes_of(finished)


def test_a_kill_loses_the_unit_in_work_and_no_other(finished, tmp_path):
    log = tmp_path / "log"
    killed = in_new_process(call(tmp_path / "toy"), **{LOG: str(log), KILL: "unit-3"})
    assert killed.wait(LONG) == -9
    parts = sorted(file.stem for file in (tmp_path / "toy" / "parts").glob("*.parquet"))
    assert parts == ["unit-0", "unit-1", "unit-2"]
    assert not json.loads((tmp_path / "toy" / "manifest.json").read_text())["finished"]
    results = run(tmp_path / "toy")
    assert (results.computed, results.skipped) == (2, 3)
    assert bytes_of(tmp_path / "toy") == bytes_of(finished)


def test_workers_end_with_a_killed_parent(tmp_path):
    log = tmp_path / "log"
    slow = replace(SETTINGS, sleep=2 * LONG)
    parent = in_new_process(call(tmp_path / "toy", slow, n_workers=2), **{LOG: str(log)})

    def children() -> set[int]:
        lines = log.read_text().splitlines() if log.is_file() else []
        return {int(line.split()[1]) for line in lines}

    wait_for(lambda: len(children()) == 2)
    assert parent.pid not in children()
    parent.kill()
    parent.wait(LONG)
    wait_for(lambda: not any(is_running(child) for child in children()))


def wait_for(condition: Callable[[], bool], seconds: float = LONG) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_worker_that_dies_is_told_and_what_was_done_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(KILL, "unit-4")
    with pytest.raises(RuntimeError, match="a worker process died"):
        run(tmp_path / "toy", workers=2)
    monkeypatch.delenv(KILL)
    assert run(tmp_path / "toy").skipped >= 1


def test_a_failing_unit_is_named_and_those_before_are_kept(tmp_path):
    failing = replace(SETTINGS, fail_at=2)
    with pytest.raises(ValueError, match="this unit fails") as caught:
        run(tmp_path / "toy", failing)
    assert caught.value.__notes__ == ["in unit 'unit-2'"]
    assert len(list((tmp_path / "toy" / "parts").iterdir())) == 2


def test_a_finished_run_computes_nothing_again(finished, monkeypatch):
    before = bytes_of(finished)

    def refuse(*_: Any) -> None:
        raise AssertionError("a finished run needs no model")

    results = run_analysis(ANALYSIS, SETTINGS, out=finished, load=refuse, progress=False)
    assert (results.computed, results.skipped) == (0, 5)
    pd.testing.assert_frame_equal(results.values, pd.read_parquet(finished / "values.parquet"))
    assert set(results.tables) == {"summary"}
    assert bytes_of(finished) == before


def test_other_settings_are_refused_by_name(finished):
    with pytest.raises(ValueError, match=r"other settings \(seed: 3 then, 4 now\)"):
        run(finished, replace(SETTINGS, seed=4))
    with pytest.raises(ValueError, match=r"sleep: None then, 0.5 now"):
        run(finished, replace(SETTINGS, sleep=0.5))
    with pytest.raises(ValueError, match="analysis: 'toy' then, 'other' now"):
        run_analysis(replace(ANALYSIS, name="other"), SETTINGS, out=finished, load=load)


def test_a_setting_that_is_no_more_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="fails"):
        run(tmp_path / "toy", replace(SETTINGS, fail_at=2))
    manifest = json.loads((tmp_path / "toy" / "manifest.json").read_text())
    manifest["settings"]["depth"] = 8
    (tmp_path / "toy" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="depth: 8 then, None now"):
        run(tmp_path / "toy", replace(SETTINGS, fail_at=2))


def test_units_that_changed_are_refused(finished):
    def changed(settings):
        return [
            Unit(unit.name, {**unit.payload, "text": "new"}) for unit in ANALYSIS.units(settings)
        ]

    with pytest.raises(ValueError, match=r"units: '[0-9a-f]{16}' then"):
        run_analysis(replace(ANALYSIS, units=changed), SETTINGS, out=finished, load=load)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"no results folder of `python -m analyses\.toy`"):
        run(tmp_path)


def forget_failure(folder: Path) -> None:
    """Make a run that failed on purpose look like one that was broken off."""
    told = json.loads((folder / "manifest.json").read_text())
    del told["settings"]["fail_at"]
    (folder / "manifest.json").write_text(json.dumps(told))


def test_a_part_cut_short_is_done_again(tmp_path, finished):
    with pytest.raises(ValueError, match="fails"):
        run(tmp_path / "toy", replace(SETTINGS, fail_at=3))
    parts = tmp_path / "toy" / "parts"
    (parts / "unit-1.parquet").write_bytes((parts / "unit-1.parquet").read_bytes()[:100])
    forget_failure(tmp_path / "toy")
    assert run(tmp_path / "toy").computed == 3
    assert bytes_of(tmp_path / "toy") == bytes_of(finished)


def test_other_weights_of_the_same_name_are_refused_and_old_units_are_not(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="this unit fails"):
        run(tmp_path / "toy", replace(SETTINGS, fail_at=2))
    forget_failure(tmp_path / "toy")
    known = workers.identity(load(SETTINGS))
    assert known["weights"] == weights_digest(load(SETTINGS))
    monkeypatch.setattr(workers, "identity", lambda model: {**known, "weights": "other"})
    with pytest.raises(ValueError, match=r"different models \(weights: '\w{16}' and 'other'\)"):
        run(tmp_path / "toy")
    old = {name: value for name, value in known.items() if name != "weights"}
    monkeypatch.setattr(workers, "identity", lambda model: old)
    assert run(tmp_path / "toy").computed


def test_units_of_different_models_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="this unit fails"):
        run(tmp_path / "toy", replace(SETTINGS, fail_at=2))
    forget_failure(tmp_path / "toy")
    known = workers.identity(load(SETTINGS))
    monkeypatch.setattr(workers, "identity", lambda model: {**known, "dtype": "bfloat16"})
    with pytest.raises(ValueError, match=r"different models \(dtype: 'float32' and 'bfloat16'\)"):
        run(tmp_path / "toy")


def test_another_seed_changes_only_what_is_drawn(finished, tmp_path):
    other = run(tmp_path / "toy", replace(SETTINGS, seed=4)).values
    values = pd.read_parquet(finished / "values.parquet")
    pd.testing.assert_frame_equal(other.drop(columns="draw"), values.drop(columns="draw"))
    assert not (other["draw"] == values["draw"]).any()


def test_more_units_leave_the_first_as_they_were(finished, tmp_path):
    more = run(tmp_path / "toy", replace(SETTINGS, n=6)).values
    pd.testing.assert_frame_equal(more.iloc[:10], pd.read_parquet(finished / "values.parquet"))
    assert len({unit_seed(seed, number) for seed in range(30) for number in range(30)}) == 900


def test_manifest_says_how_to_repeat_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LoadModel", lambda checks: load)
    arguments = ["--n", "2", "--out", str(tmp_path / "toy"), "--no-progress", "--threads", "1"]
    runner.main("tests.toy_analysis", arguments)
    manifest = AnalysisFolder(tmp_path / "toy", "toy").manifest()
    assert manifest["command"].startswith("python -m tests.toy_analysis --n 2 --out ")
    assert manifest["settings"]["model"] == "reasoner"
    assert manifest["model"]["dtype"] == "float32"
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["finished"]
    assert manifest["unit_seconds"] >= 0
    assert manifest["cost"] == {"passes": 2, "tokens": 40}
    assert manifest["tables"] == ["values", "summary"]


def test_a_run_that_was_begun_before_passes_were_counted_says_no_cost(tmp_path, monkeypatch):
    counted = AnalysisFolder.read_part
    monkeypatch.setattr(
        AnalysisFolder,
        "read_part",
        lambda self, unit: (part := counted(self, unit)) and replace(part, cost=None),
    )
    run(tmp_path / "toy", SETTINGS)
    assert AnalysisFolder(tmp_path / "toy", "toy").manifest()["cost"] is None


@pytest.mark.parametrize("backend", ["auto", "bridge"])
def test_passes_and_their_tokens_are_counted(backend):
    model = ss.load_model("reasoner", backend=backend)
    question = make_problems(1)[0].question
    tokens = torch.zeros(3, 7, dtype=torch.long)
    with counted(model.cfg.d_vocab) as cost:
        model(tokens)
    assert cost == Cost(1, 21)
    trace = ss.generate(model, question, max_new_tokens=9, temperature=0.0, progress=False)[0]
    prompt = len(trace) - trace.meta["response_tokens"]
    check = Cost(2, 64)  # the fast loop holds the reference model against the model
    for method, more in (("hooks", Cost()), ("fast", check)):
        with counted(model.cfg.d_vocab) as cost:
            ss.generate(
                model, question, max_new_tokens=9, temperature=0.0, method=method, progress=False
            )
        assert cost == Cost(9, prompt + 8) + more, method
    ss.step_saliency(model, trace)  # checks the model, once
    with counted(model.cfg.d_vocab) as cost:
        ss.step_saliency(model, trace)
    assert cost == Cost(1, len(trace))
    with counted(None) as cost:
        model(tokens)
    assert cost == Cost()


def test_no_folder_of_this_machine_gets_into_a_manifest():
    from step_saliency import load_model

    facts = workers.identity(load_model("reasoner"))
    assert facts["source"] == facts["name"] == "reasoner"
    assert not [value for value in facts.values() if os.sep in str(value)]


def test_the_command_line_tells_bad_input_without_a_traceback(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        runner.main("tests.toy_analysis", ["--out", str(tmp_path / "file")])
    assert "is a file; a results folder is needed" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["a", "a"], ["a/b"], [".a"], []])
def test_unit_names_must_be_file_names(names, tmp_path):
    analysis = replace(ANALYSIS, units=lambda settings: [Unit(name, None) for name in names])
    with pytest.raises(ValueError, match="unit names must be distinct plain file names"):
        run_analysis(analysis, SETTINGS, out=tmp_path / "toy", load=load)


def test_a_loaded_model_stays_in_this_process(tmp_path, finished):
    model = load(SETTINGS)
    run_analysis(ANALYSIS, SETTINGS, out=tmp_path / "toy", model=model, progress=False)
    assert bytes_of(tmp_path / "toy") == bytes_of(finished)
    with pytest.raises(ValueError, match="cannot be handed to other processes"):
        run_analysis(ANALYSIS, SETTINGS, out=tmp_path / "two", model=model, workers=2)


def test_values_that_are_not_kept_leave_their_tables(tmp_path):
    slim = replace(ANALYSIS, keep_values=False)
    first = run_analysis(slim, SETTINGS, out=tmp_path, load=load, progress=False)
    assert first.values is not None
    assert sorted(bytes_of(tmp_path)) == ["summary.csv", "summary.parquet"]
    again = run_analysis(slim, SETTINGS, out=tmp_path, load=load, progress=False)
    assert again.values is None
    pd.testing.assert_frame_equal(again.tables["summary"], first.tables["summary"])


def test_units_without_rows_are_no_harm(tmp_path):
    def sparse(model: Any, unit: Unit, settings: ToySettings) -> pd.DataFrame:
        whole = toy_analysis.run_unit(model, unit, settings)
        return pd.DataFrame() if unit.payload["number"] == 0 else whole

    values = run_analysis(
        replace(ANALYSIS, run_unit=sparse), SETTINGS, out=tmp_path, load=load, progress=False
    ).values
    assert len(values) == 8


class FakeRay(SimpleNamespace):
    """What the runner uses of Ray, computed at once in this process."""

    def __init__(self) -> None:
        super().__init__(calls=[], results={})

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options["address"]))

    def shutdown(self) -> None:
        self.calls.append(("shutdown",))

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def remote(self, **needs: Any) -> Callable[[type], Any]:
        self.calls.append(("remote", needs))

        def wrap(worker: type) -> Any:
            return SimpleNamespace(remote=lambda job: self._actor(worker(job)))

        return wrap

    def _actor(self, worker: Any) -> Any:
        self.calls.append(("actor",))

        def submit(unit: Unit) -> int:
            self.results[len(self.results)] = worker.run(unit)
            return len(self.results) - 1

        return SimpleNamespace(run=SimpleNamespace(remote=submit))

    def wait(self, running: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        return running[-num_returns:], running[:-num_returns]

    def get(self, reference: int) -> Any:
        return self.results[reference]


def test_a_cluster_gives_the_same_bytes(finished, tmp_path, monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    run(tmp_path / "toy", ray="host:1234")
    assert bytes_of(tmp_path / "toy") == bytes_of(finished)
    assert fake.calls[0] == ("init", "host:1234")
    assert fake.calls[-1] == ("shutdown",)
    assert fake.calls.count(("actor",)) == 3


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'step-saliency\[ray\]'"):
        run(tmp_path / "toy", ray="local")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_itself_gives_the_same_bytes(finished, tmp_path):
    run(tmp_path / "toy", ray="local", workers=2)
    assert bytes_of(tmp_path / "toy") == bytes_of(finished)


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="workers=0: at least one is needed"):
        run(tmp_path / "toy", workers=0)


def test_analysis_without_a_model(tmp_path):
    plain = Analysis(
        "plain",
        Settings,
        units=lambda settings: [Unit("only", 1)],
        run_unit=lambda model, unit, settings: pd.DataFrame({"model": [model is None]}),
        summarise=lambda values, settings: {},
    )
    assert run_analysis(plain, Settings(), out=tmp_path, progress=False).values["model"].all()


def test_tables_are_made_anew_from_kept_values(finished, tmp_path, capsys):
    folder = tmp_path / "toy"
    shutil.copytree(finished, folder)
    before = bytes_of(folder)
    facts = json.loads((folder / "manifest.json").read_text())
    pd.DataFrame({"estimate": [7.0]}).to_parquet(folder / "summary.parquet")
    facts["analysis"] = "toy_analysis"
    (folder / "manifest.json").write_text(json.dumps(facts))
    sys.modules["analyses.toy_analysis"] = toy_analysis
    try:
        tables.main([str(folder)])
    finally:
        del sys.modules["analyses.toy_analysis"]
    assert bytes_of(folder) == before
    anew = json.loads((folder / "manifest.json").read_text())
    assert anew.pop("tables_versions") == anew["versions"]
    assert anew == facts
    assert "summary" in capsys.readouterr().out


def test_tables_of_what_has_not_ended_or_is_not_here_are_refused(finished, tmp_path, capsys):
    folder = tmp_path / "toy"
    shutil.copytree(finished, folder)
    with pytest.raises(SystemExit):
        tables.main([str(folder), str(tmp_path / "none")])
    said = capsys.readouterr().err
    assert "'toy', which is not here" in said
    assert f"there is no folder {tmp_path / 'none'}; a results folder" in said
    with FolderLock(folder), pytest.raises(ValueError, match="in use"):
        tables.tables_anew(folder)
    (folder / "values.parquet").unlink()
    with pytest.raises(ValueError, match="keeps no values"):
        tables.tables_anew(folder)
