"""Code in the README and the documentation: every block runs, or is marked and at least parses.

Blocks of a page run in order in one namespace and one folder: Python, and the ``step-saliency`` and
``python -m figures`` commands of console blocks. ``<!-- needs: hub -->`` above a block (or another
word than hub) says that it cannot run here; ``bash`` blocks set up environments, which CI does as
they stand there.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pytest

from step_saliency import cli

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<fence>```+)(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.M | re.S
)
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


def commands_of(block: Block) -> list[list[str]]:
    lines = block.body.replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]


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


@pytest.mark.parametrize("page", PAGES)
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
