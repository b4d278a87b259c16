"""What lies on disk stays readable: folders and logs of the first version are taken up again."""

import json
import math
import subprocess
import sys
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from analyses.running.folder import AnalysisFolder, Done
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.settings import MapSettings
from step_saliency.storage.described import described
from step_saliency.storage.files import replacing, write_text
from step_saliency.storage.tables import read_noted, write_table
from step_saliency.storage.trace_log import TraceLog
from step_saliency.trace import Trace
from tests.tiny import tiny_tokenizer

EARLIER_MAP_SETTINGS: dict[str, Any] = {
    "model": "reasoner",
    "backend": "auto",
    "device": None,
    "dtype": "float32",
    "revision": None,
    "trust_remote_code": False,
    "objective": "next_token",
    "method": "auto",
    "pool": "mean",
    "rows": "query",
    "per_head": False,
    "layers": [0, 3],
    "format": "auto",
    "splitter": "sentence",
    "system": None,
    "instruction": None,
    "n": 2,
    "temperature": 0.0,
    "top_p": 1.0,
    "max_new_tokens": 512,
    "seed": 0,
    "batch_size": 16,
    "figures": True,
}
"""Settings as a manifest of the first version holds them."""


def a_trace(response: str = "We add. It is 7.") -> Trace:
    return Trace.from_text(tiny_tokenizer(), question="3 + 4?", response=response, format="plain")


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2))


def test_a_map_folder_of_the_first_version_is_taken_up(tmp_path: Path) -> None:
    manifest = {"format": "step-saliency-run/1", "settings": EARLIER_MAP_SETTINGS, "model": None}
    write_json(tmp_path / "manifest.json", manifest)
    trace = a_trace()
    entries = [
        {"name": "q#0", "row_digest": "d", "trace": trace.to_dict()},
        {"name": "q#1", "row_digest": "of an earlier text", "trace": trace.to_dict()},
    ]
    lines = [json.dumps(entry) for entry in entries]
    (tmp_path / "generated.jsonl").write_text("\n".join([*lines, lines[0][:40]]))
    settings = MapSettings(n=2, layers=(0, 3), figures=False, batch_size=4)
    folder = RunFolder.open(tmp_path, settings.to_dict())
    answers = folder.read_generated({"q": "d"})
    assert {name: answer.to_dict() for name, answer in answers.items()} == {"q#0": trace.to_dict()}
    folder.append_generated("r#0", "e", trace)
    *earlier, added = (tmp_path / "generated.jsonl").read_text().splitlines()
    assert earlier == lines
    entry = json.loads(added)
    assert len(entry.pop("sha256")) == 64
    assert entry == {"name": "r#0", "row_digest": "e", "trace": trace.to_dict()}
    folder.close()
    with pytest.raises(ValueError, match=r"\(n: 2 then, 3 now\)"):
        RunFolder.open(tmp_path, MapSettings(n=3, layers=(0, 3)).to_dict())


def test_settings_are_written_as_before_until_a_new_one_is_set() -> None:
    assert MapSettings(n=2, layers=(0, 3), figures=True).to_dict() == EARLIER_MAP_SETTINGS
    assert MapSettings(top_k=5).to_dict()["top_k"] == 5
    assert MapSettings(stop_texts="x").to_dict()["stop_texts"] == "x"
    with pytest.raises(ValueError, match="n=0 is below 1"):
        MapSettings(n=0)


def test_a_log_of_the_first_version_is_taken_up(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    settings = {"seed": 0, "model": {"weights": "abc"}}
    beside = {"format": "step-saliency-generation/1", "settings": settings}
    write_json(tmp_path / "answers.jsonl.settings.json", beside)
    line = json.dumps(a_trace().to_dict())
    file.write_text(f"{line}\n{line[:30]}")
    log = TraceLog(file, settings)
    log.append(a_trace("We add. It is 8."))
    assert [trace.response for trace in log] == ["We add. It is 7.", "We add. It is 8."]
    assert file.read_text().startswith(f"{line}\n{{")
    with pytest.raises(ValueError, match=r"\(seed: 0 then, 1 now\)"):
        TraceLog(file, {**settings, "seed": 1})
    with pytest.raises(ValueError, match=r"model: .*abc.* then, None now"):
        TraceLog(file, {"seed": 0})


def test_an_analysis_folder_of_the_first_version_is_taken_up(tmp_path: Path) -> None:
    settings = {"seed": 0, "units": "abc"}
    manifest = {
        "format": "step-saliency-analysis/1",
        "analysis": "toy",
        "settings": settings,
        "finished": False,
        "tables": [],
    }
    write_json(tmp_path / "manifest.json", manifest)
    frame = pd.DataFrame({"problem": ["p"], "value": [0.5]})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    note = json.dumps({"seconds": 1.5, "model": {"name": "m"}}).encode()
    (tmp_path / "parts").mkdir()
    table = table.replace_schema_metadata({**table.schema.metadata, b"unit": note})
    pq.write_table(table, tmp_path / "parts" / "a.parquet")
    folder = AnalysisFolder.open(tmp_path, "toy", settings)
    folder.write_part(Done("b", frame, 2.0, {"name": "m"}))
    parts = [folder.read_part(name) for name in ("a", "b")]
    assert [part and (part.seconds, part.model) for part in parts] == [
        (1.5, {"name": "m"}),
        (2.0, {"name": "m"}),
    ]
    values = folder.write_values([part for part in parts if part is not None])
    pd.testing.assert_frame_equal(values, pd.concat([frame, frame], ignore_index=True))
    assert not folder.is_finished
    with pytest.raises(ValueError, match="analysis: 'toy' then, 'other' now"):
        AnalysisFolder.open(tmp_path, "other", settings)
    with pytest.raises(ValueError, match="is a file; a results folder is needed"):
        AnalysisFolder.open(tmp_path / "manifest.json", "toy", settings)


def test_a_broken_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    write_text(file, "first")
    with suppress(ZeroDivisionError), replacing(file) as part:
        part.write_text("sec")
        part.write_text(str(1 / 0))
    assert file.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_table_without_a_note_is_no_part(tmp_path: Path) -> None:
    table = pa.table({"a": [1]})
    write_table(tmp_path / "plain.parquet", table)
    write_table(tmp_path / "noted.parquet", table, note={})
    assert read_noted(tmp_path / "plain.parquet") is None
    assert read_noted(tmp_path / "absent.parquet") is None
    noted = read_noted(tmp_path / "noted.parquet")
    assert noted is not None
    assert (noted[0].equals(table), noted[1]) == (True, {})


def test_descriptions_tell_tensors_apart() -> None:
    one, other = torch.zeros(3), torch.ones(3)
    assert described(one) == described(torch.zeros(3))
    assert described(one)["sha256"] != described(other)["sha256"]


def test_descriptions_tell_numbers_and_functions_apart() -> None:
    """And are those of Python where there are any."""
    assert described([np.int64(3), np.float32(0.5), np.bool_(True)]) == [3, 0.5, True]
    assert described(np.arange(3)) == described(np.arange(3))
    assert described(np.arange(3)) != described(np.arange(3)[::-1])
    assert described(np.array([{"a": 1}])) != described(np.array([{"a": 2}]))
    assert described(partial(int, base=2)) != described(partial(int, base=8))
    assert described(int) == "builtins.int"

    def cut(n: int) -> list[Any]:
        return [lambda text: text[:n], lambda text: text[n:], lambda text, n=n: text[:n]]

    assert described(cut(3)) == described(cut(3))
    kinds = [json.dumps(described(function)) for function in (*cut(3), *cut(4))]
    assert len(set(kinds)) == 6
    source = "lambda text: [part in {'a', 'b'} for part in map(lambda x: x + 'c', text)]"
    assert described(eval(source)) == described(eval(source)), "no addresses"


def ramp(by: float) -> Any:
    def strength(depth: float) -> float:
        return by * depth

    return strength


class Ramp:
    def __init__(self, by: float) -> None:
        self.by = by
        self.itself = self

    def strength(self, depth: float) -> float:
        return self.by * depth

    @classmethod
    def steep(cls, depth: float) -> float:
        return 2 * depth


def edited(source: str) -> Any:
    """A function as a cell of a notebook defines it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    return names["f"]


def test_descriptions_tell_functions_of_one_name_apart() -> None:
    assert described(ramp(1.0)) == described(ramp(1.0))
    assert described(ramp(1.0)) != described(ramp(2.0))
    assert described(Ramp(1.0).strength) == described(Ramp(1.0).strength)
    assert described(Ramp(1.0).strength) != described(Ramp(2.0).strength)
    assert described(Ramp.steep) != described(Ramp(1.0).strength)
    assert described(", ".join) != described("; ".join)
    cells = ["def f(d): return d", "def f(d): return 2 * d", "def f(d, by=2): return by * d"]
    kinds = [json.dumps(described(edited(cell))) for cell in cells]
    assert len(set(kinds)) == 3
    cached = [json.dumps(described(cache(edited(cell)))) for cell in cells]
    assert len({*kinds, *cached}) == 6
    assert described(edited(cells[0])) == described(edited("# the same\n\n" + cells[0]))


def test_descriptions_look_into_what_a_function_captures() -> None:
    def twice(inner: Any) -> Any:
        def strength(depth: float) -> Any:
            return inner(depth) if depth else strength

        return strength

    assert described(twice(ramp(1.0))) == described(twice(ramp(1.0)))
    assert described(twice(ramp(1.0))) != described(twice(ramp(2.0)))
    assert described(twice(np)) == described(twice(np)), "modules by name"
    assert described(twice(Path("a"))) != described(twice(Path("b")))
    assert described(twice(torch.float32)) != described(twice(torch.float16))


def test_settings_of_maps_tell_functions_of_one_name_apart() -> None:
    cells = ["def f(part, gold): return part == gold", "def f(part, gold): return gold in part"]
    graded = [MapSettings(grade=edited(cell)).to_dict()["grade"] for cell in cells]
    assert graded[0] != graded[1]
    assert graded[0] == MapSettings(grade=edited(cells[0])).to_dict()["grade"]
    cut = [MapSettings(splitter=ramp(by)).to_dict()["splitter"] for by in (1.0, 2.0)]
    assert cut[0] != cut[1]


def test_functions_of_the_package_and_builtin_ones_are_named() -> None:
    assert described(described) == "step_saliency.storage.described.described"
    assert described(math.sqrt) == "math.sqrt"


def test_settings_of_a_log_without_a_line_are_written_anew(tmp_path: Path) -> None:
    """A call that was refused on its way leaves its settings, and nothing that depends on them."""
    file = tmp_path / "log.jsonl"
    TraceLog(file, {"seed": 0})
    log = TraceLog(file, {"seed": 1})
    log.append(a_trace())
    TraceLog(file, {"seed": 1})
    with pytest.raises(ValueError, match="seed: 1 then, 0 now"):
        TraceLog(file, {"seed": 0})


def test_saved_text_loads_no_maps() -> None:
    code = (
        "import sys\n"
        "import step_saliency.storage.traces, step_saliency.storage.trace_log\n"
        "import step_saliency.storage.folder\n"
        "names = [name.split('.') for name in sys.modules]\n"
        "rooms = {name[1] for name in names if name[0] == 'step_saliency' and name[1:]}\n"
        "print(sorted(rooms & {'saliency', 'intervene', 'decoding', 'diagnosis', 'plotting'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
