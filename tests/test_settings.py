"""Settings make the command lines that are documented, and the manifests that runs have."""

import argparse
import json
import shlex
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest

from analyses.running.folder import AnalysisFolder
from analyses.running.runner import Analysis, digest_of, parser_for
from analyses.running.settings import (
    Settings,
    add_options,
    from_arguments,
    option,
    parse,
)

ROOT = Path(__file__).parents[1]
COMMAND_LINES = json.loads((ROOT / "tests" / "command_lines.json").read_text(encoding="utf-8"))
"""Options of every analysis as they are documented, by name and flag."""
RESULTS = sorted(file.parent for file in (ROOT / "results").glob("*/manifest.json"))


@dataclass(frozen=True, kw_only=True)
class Wide(Settings):
    """One field of every kind."""

    level: Literal["easy", "hard"] = option("easy", "of the task")
    kinds: tuple[Literal["a", "b"], ...] = ("a",)
    heads: tuple[str, ...] = option((), metavar="L3H1")
    limits: tuple[int, ...] = (1, 2)
    bands: bool = True
    quick: bool = False
    peers: Path | None = None
    share: float = option(0.5, flag="--portion")
    way: Literal["up", "down"] | None = None


@dataclass(frozen=True, kw_only=True)
class Narrow(Wide):
    """Another default."""

    level: Literal["easy", "hard"] = "hard"


def analysis_of(name: str) -> Analysis[Any]:
    found: Analysis[Any] = import_module(f"analyses.{name}").ANALYSIS
    return found


def options_of(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    """What a command line takes; functions of types by name."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        default = list(action.default) if isinstance(action.default, tuple) else action.default
        found[" ".join(action.option_strings)] = {
            "dest": action.dest,
            "default": default,
            "type": getattr(action.type, "__name__", "str"),
            "choices": None if action.choices is None else list(action.choices),
            "nargs": action.nargs,
            "required": action.required,
            "help": action.help,
            "metavar": action.metavar,
        }
    return found


def test_every_analysis_has_its_command_line_on_record() -> None:
    files = [
        file.relative_to(ROOT / "analyses").with_suffix("")
        for file in (ROOT / "analyses").rglob("*.py")
        if "\nANALYSIS = " in file.read_text(encoding="utf-8")
    ]
    names = {".".join(part for part in file.parts if part != "__init__") for file in files}
    assert names == set(COMMAND_LINES)
    assert all(analysis_of(name).name == name for name in names)


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_options_are_the_documented_ones(name: str) -> None:
    assert options_of(parser_for(analysis_of(name))) == COMMAND_LINES[name]


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_choices_are_several_and_one_of_them_is_the_default(name: str) -> None:
    for action in parser_for(analysis_of(name))._actions:
        if action.choices is None:
            continue
        assert len(action.choices) > 1, action.dest
        defaults = action.default if isinstance(action.default, tuple) else [action.default]
        assert {*defaults} - {None} <= {*action.choices}, action.dest


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_a_run_that_the_repository_holds_is_taken_up(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    analysis = analysis_of(manifest["analysis"])
    arguments = shlex.split(manifest["command"])[3:]
    settings = from_arguments(analysis.settings, parser_for(analysis).parse_args(arguments))
    before = dict(manifest["settings"])
    if settings.as_json().get("data", "task") == "task":
        assert digest_of(analysis.units(settings)) == before.pop("units")
    assert settings.as_json() == {name: before[name] for name in before if name != "units"}


def test_settings_of_before_open_their_folder_and_others_do_not(tmp_path: Path) -> None:
    settings = parse(analysis_of("ablation").settings, "--n", "3")
    later = {entry.name for entry in fields(settings) if entry.metadata.get("since_later")}
    assert later == {"field", "n_doses", "n_matching", "opening", "references", "system"}
    known = {
        name: line["default"] for name, line in _by_name("ablation").items() if name not in later
    }
    manifest = {"format": "step-saliency-analysis/1", "analysis": "ablation"}
    manifest["settings"] = {**known, "n": 3, "units": "x"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    AnalysisFolder.open(tmp_path, "ablation", {**settings.as_json(), "units": "x"})
    other = replace(settings, depth=9)
    with pytest.raises(ValueError, match="depth: 8 then, 9 now"):
        AnalysisFolder.open(tmp_path, "ablation", {**other.as_json(), "units": "x"})
    another = replace(settings, field="question=asks")
    with pytest.raises(ValueError, match="field: None then, 'question=asks' now"):
        AnalysisFolder.open(tmp_path, "ablation", {**another.as_json(), "units": "x"})


def _by_name(name: str) -> dict[str, dict[str, Any]]:
    run = {"out", "workers", "ray", "progress"}
    lines = {line["dest"]: line for line in COMMAND_LINES[name].values()}
    return {dest: line for dest, line in lines.items() if dest not in run}


def test_each_kind_of_field_is_read_from_a_command_line() -> None:
    assert parse(Wide) == Wide()
    given = ["--level", "hard", "--kinds", "a", "b", "--heads", "L0H1", "--limits", "3"]
    given += ["--no-bands", "--quick"]
    given += ["--peers", "maps.jsonl", "--portion", "0.25", "--way", "up", "--n", "7"]
    expected = Wide(
        level="hard",
        kinds=("a", "b"),
        heads=("L0H1",),
        limits=(3,),
        bands=False,
        quick=True,
        peers=Path("maps.jsonl"),
        share=0.25,
        way="up",
        n=7,
    )
    assert parse(Wide, *given) == expected
    assert parse(Wide, "--heads").heads == ()


@pytest.mark.parametrize("wrong", ["--level no", "--kinds", "--kinds c", "--limits x", "--bands"])
def test_a_wrong_command_line_is_refused(wrong: str) -> None:
    with pytest.raises(SystemExit):
        parse(Wide, *wrong.split())


def test_another_default_keeps_the_help() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Narrow)
    options = options_of(parser)
    assert options["--level"]["help"] == "of the task"
    assert options["--level"]["default"] == "hard"
    assert options["--n"]["help"] == "problems"


def test_settings_made_by_hand_are_checked_and_frozen() -> None:
    with pytest.raises(ValueError, match="level='no' is unknown; choose one of easy, hard"):
        Wide(level="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kinds='c' is unknown; choose one of a, b"):
        Wide(kinds=("a", "c"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="depht"):
        Wide(depht=8)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        Wide().n = 3  # type: ignore[misc]


def test_json_has_lists_for_tuples_and_text_for_paths() -> None:
    made = Wide(kinds=("b",), peers=Path("a") / "b.jsonl").as_json()
    assert (made["kinds"], made["peers"], made["way"]) == (["b"], "a/b.jsonl", None)
    assert json.loads(json.dumps(made)) == made
