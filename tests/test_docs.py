"""Code in the README and the documentation: every block runs, or is marked and at least parses.

Blocks of a page run in order in one namespace and one folder: Python, and the ``step-saliency`` and
``python -m figures`` commands of console blocks. ``<!-- needs: hub -->`` above a block (or another
word than hub) says that it cannot run here; ``bash`` blocks set up environments, which CI does as
they stand there. Commands of the analyses are parsed by their own parsers, wherever they stand, and
what pages quote from results is what `docs.quotes` writes.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from nights import mostly_at_night

from analyses.running.runner import parser_for
from analyses.running.settings import Settings, from_arguments
from docs.quotes import commands, costs, gold_maps
from docs.quotes.__main__ import parts
from docs.quotes.marked import part, with_part
from step_saliency import cli

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.M | re.S
)
ARRAY = re.compile(r"^[A-Z]+=\(")
"""Words that several commands of a page share, as an array of the shell."""
INLINE = re.compile(r"`(python -m analyses\.[^`]+)`")
NEEDS = re.compile(r"<!-- needs: (\w+) -->\s*\Z")
QUIET = ("toctree", "eval-rst", "include")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    body: str
    needs: str | None
    line: int


def blocks_of(text: str) -> Iterator[Block]:
    for found in FENCE.finditer(text):
        needs = NEEDS.search(text, 0, found.start())
        words = re.findall(r"[\w.-]+", found["info"])
        language = words[0] if words else ""
        language = "python" if language == "code-cell" else language
        line = text.count("\n", 0, found.start("body"))
        yield Block(language, found["body"], needs[1] if needs else None, line)


def command_lines(block: Block) -> list[str]:
    lines = block.body.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def commands_of(block: Block) -> list[list[str]]:
    return [shlex.split(line) for line in command_lines(block)]


def analysis_commands(text: str) -> list[list[str]]:
    """Words of every command of an analysis on a page, arrays and files filled in by the shell."""
    consoles = (block for block in blocks_of(text) if block.language == "console")
    lines = [line for block in consoles for line in command_lines(block)]
    arrays = [line for line in lines if ARRAY.match(line)]
    lines = [line for line in lines if line.startswith("python -m analyses.")]
    prose = FENCE.sub("", text)
    return [words(line, arrays) for line in (*lines, *INLINE.findall(prose))]


def words(line: str, arrays: list[str]) -> list[str]:
    script = "\n".join([*arrays, f"printf '%s\\0' {' '.join(line.split())}"])
    done = subprocess.run(["bash", "-eu"], cwd=ROOT, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]


class Parsed(Exception):  # noqa: N818
    """A command line that its parser takes."""


def parse_command(given: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings | None:
    """Settings of an analysis by its own parser; other commands are parsed as they do it."""
    module = import_module(given[2])
    if hasattr(module, "ANALYSIS"):
        parsed = parser_for(module.ANALYSIS).parse_args(given[3:])
        settings: Settings = from_arguments(module.ANALYSIS.settings, parsed)
        return settings
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parse_args(parser, *args, **kwargs)
        raise Parsed

    run = import_module(f"{given[2]}.__main__") if hasattr(module, "__path__") else module
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Parsed):
            run.main(given[3:])
    return None


def run(block: Block, page: str, namespace: dict) -> None:
    if block.language == "python":
        # Empty lines in front make tracebacks point at the page's own lines.
        source = "\n" * block.line + block.body
        code = compile(source, page, "exec")
        if not block.needs:
            exec(code, namespace)
    elif block.language == "bash":
        subprocess.run(["bash", "-n"], input=block.body, text=True, check=True)
    elif block.language == "console":
        for command in commands_of(block):
            run_command(command, needs=block.needs)
    else:
        assert block.language in QUIET, f"line {block.line}: no way to check {block.language!r}"


def run_command(command: list[str], *, needs: str | None) -> None:
    if command[0] == "step-saliency":
        cli._parser().parse_args(command[1:])
        if not needs:
            assert cli.main(command[1:]) == 0, command
    elif command[:3] == ["python", "-m", "figures"]:
        if not needs:
            done = [sys.executable, *command[1:]]
            subprocess.run(done, cwd=ROOT, check=True, capture_output=True)
    else:
        assert needs, f"no way to run {command}"


@pytest.mark.parametrize(
    "page", mostly_at_night(PAGES, *(page for page in PAGES if page != "docs/howto/figures.md"))
)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__docs__"}
    with mpl.rc_context():
        for block in blocks_of((ROOT / page).read_text(encoding="utf-8")):
            run(block, page, namespace)


def test_a_broken_block_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "a\n\n```python\nx = 1\n```\n\n<!-- needs: hub -->\n```python\nx = 1 / 0\n```\n"
    good, marked = blocks_of(text)
    assert (good.needs, marked.needs, marked.line) == (None, "hub", 8)
    run(marked, "page.md", {})
    with pytest.raises(ZeroDivisionError):
        run(Block("python", "1 / 0\n", None, 0), "page.md", {})
    with pytest.raises(SyntaxError):
        run(Block("python", "1 +\n", "hub", 0), "page.md", {})
    with pytest.raises(AssertionError, match="no way to check 'perl'"):
        run(Block("perl", "", None, 0), "page.md", {})
    with pytest.raises(SystemExit):
        run(Block("console", "$ step-saliency map --no-such-option\n", "hub", 0), "page.md", {})


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)\s#]+)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_pages_are_in_a_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = [page.removeprefix("docs/").removesuffix(".md") for page in PAGES[1:]]
    listed = {line.strip() for line in index.splitlines()}
    assert set(names) - {"index"} <= listed


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_analyses_are_parsed_by_their_own_parsers(page, monkeypatch):
    for given in analysis_commands((ROOT / page).read_text(encoding="utf-8")):
        parse_command(given, monkeypatch)


def test_a_wrong_command_of_an_analysis_is_found(monkeypatch):
    text = "```console\n$ A=(--n 3 --instruction 'two words')\n"
    text += '$ python -m analyses.ablation "${A[@]}" --out x\n```\n'
    text += "`python -m analyses.ablation\n--problems 3`, `python -m analyses.findings --page x`"
    right, wrong, other = analysis_commands(text)
    assert right[3:] == ["--n", "3", "--instruction", "two words", "--out", "x"]
    settings = parse_command(right, monkeypatch)
    assert (settings.n, settings.instruction) == (3, "two words")
    for command in (wrong, other, [*wrong[:3], "--n", "3"]):
        with pytest.raises(SystemExit):
            parse_command(command, monkeypatch)
    assert parse_command(other[:3], monkeypatch) is None


def test_no_command_writes_into_the_committed_results():
    for page in PAGES:
        for given in analysis_commands((ROOT / page).read_text(encoding="utf-8")):
            if "--out" in given:
                assert not given[given.index("--out") + 1].startswith("results"), (page, given)


def test_pages_quote_what_the_results_say():
    for (page, name), text in parts().items():
        assert part(page.read_text(encoding="utf-8"), name) == text, (page.name, name)


def test_tables_of_the_readme_have_the_numbers_of_their_files():
    table = pd.read_parquet(ROOT / "results" / "gold_graph" / "summary.parquet")
    best = table[
        (table["method"] == "attention")
        & (table["pool"] == "mass")
        & (table["head"] == "best")
        & (table["edge"] == "premise")
        & (table["ranking"] == "problem")
        & (table["metric"] == "average_precision")
        & (table["family"] == "symbols")
        & table["layer"].isna()
    ]
    row = next(line for line in gold_maps.table_text().splitlines() if "| attention |" in line)
    assert row.split("|")[4].split()[0] == f"{best['estimate'].item():.3f}"
    lines = costs.table_text().splitlines()
    of_map = next(line for line in lines if "map, 4,096 tokens" in line and costs.CPU in line)
    cpu = pd.read_csv(ROOT / "benchmarks" / "results" / "smollm2-135m-cpu.csv")
    ratio = cpu[(cpu["method"] == "streaming") & (cpu["n_tokens"] == 4096)]["ratio"].item()
    assert f"| {ratio:.2f} [" in of_map
    mixed = pd.read_csv(ROOT / "benchmarks" / "results" / "reasoner-mixed-lengths.csv")
    static = mixed[(mixed["way"] == "refill") & (mixed["beside"] == "static")].iloc[0]
    shown = next(line for line in lines if "| static batches |" in line)
    slowest, fastest = 1 / static["faster_lowest"], 1 / static["faster_highest"]
    assert f"{1 / static['faster']:.2f} [{fastest:.2f}, {slowest:.2f}]" in shown


def test_written_commands_are_those_of_the_manifests(monkeypatch):
    known = commands.runs()
    assert {"ablation", "error_kinds_reporter", "rivals_smollm2"} <= set(known)
    for name, run in known.items():
        manifest = json.loads((ROOT / "results" / name / "manifest.json").read_text())
        settings = parse_command(shlex.split(run.line()), monkeypatch)
        del manifest["settings"]["units"]
        assert settings.as_json() == manifest["settings"], name
        assert "--workers" not in run.command
        assert run.minutes * 60 >= manifest["seconds"]


def test_minutes_are_those_of_all_units_and_written_in_words():
    broken_off = {"unit_seconds": 4661.2, "seconds": 0.3}
    drawn = {"unit_seconds": 0.1, "seconds": 81.5}
    assert commands.minutes(broken_off) == pytest.approx(77.7, abs=0.1)
    assert commands.minutes(drawn) == pytest.approx(1.36, abs=0.01)
    told = [commands.in_words(minutes) for minutes in (0.01, 1.4, 46.4, 96)]
    assert told == ["1 minute", "1 minute", "46 minutes", "1.6 hours"]


def test_a_part_of_a_page_is_renewed_between_its_marks():
    text = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    assert part(text, "x") == "old\n"
    assert with_part(text, "x", "new\n") == text.replace("old", "new")
    with pytest.raises(ValueError, match="the page has no lines '<!-- y -->'"):
        part(text, "y")
