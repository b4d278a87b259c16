"""The layout: who imports whom, how large files and functions are, and that the contract bites."""

import ast
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("step_saliency", "analyses", "figures")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MAY_IMPORT_LATE = {
    "step_saliency/__init__.py": "names are imported when they are first used",
    "step_saliency/cli.py": "the command line answers at once",
    "step_saliency/benchmark/command/arguments.py": "it is part of that command line",
    "step_saliency/runs/settings.py": "that command line reads its defaults",
    "step_saliency/benchmark/registry.py": "inspect-ai reads it at every start",
}


def files() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file in files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, FUNCTIONS):
                yield f"{file.relative_to(ROOT)}:{node.name}", node


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as main; main()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", str(folder / "pyproject.toml")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_keep_the_contract() -> None:
    checked = lint(ROOT)
    assert checked.returncode == 0, checked.stdout[-3000:]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("step_saliency/segment/regions.py", "import step_saliency.trace"),
        ("step_saliency/storage/files.py", "import step_saliency.saliency.result"),
        ("step_saliency/intervene/effects.py", "import step_saliency.saliency.pooling"),
        ("step_saliency/trace.py", "def late() -> None:\n    import step_saliency.storage.files"),
        ("analyses/gold_graph.py", "import analyses.granularity"),
        ("figures/gold_graph.py", "import step_saliency.stats"),
        ("step_saliency/brand_new.py", ""),
    ],
)
def test_an_arrow_upwards_breaks_it(module: str, line: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=_all_but_code)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    checked = lint(tmp_path)
    assert checked.returncode == 1, checked.stdout[-1000:]
    assert module.removesuffix(".py").replace("/", ".") in checked.stdout


def _all_but_code(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder, name).is_dir() or name.endswith(".py"))]


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    # a package hands on the names of its modules, so that modules import from it nothing
    arrows = nx.DiGraph(
        (module, other)
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
    )
    circles = [part for part in nx.strongly_connected_components(arrows) if len(part) > 1]
    assert circles == []


def test_no_import_hides_in_a_function() -> None:
    late = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in files()
        if str(file.relative_to(ROOT)) not in MAY_IMPORT_LATE
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(function, FUNCTIONS)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and _is_ours(node.module or "")
    ]
    assert late == []


def _is_ours(module: str) -> bool:
    """Whether it is a module of the project; plotting is left out, which brings matplotlib along
    and is asked for when a picture is."""
    return module.split(".")[0] in PACKAGES and not module.startswith("step_saliency.plotting")


def test_every_room_says_what_lives_there() -> None:
    rooms = [file for file in files() if file.name == "__init__.py"]
    silent = [file for file in rooms if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []


def test_files_and_functions_are_small() -> None:
    lengths = [file.read_text(encoding="utf-8").count("\n") for file in files()]
    assert max(lengths) <= 450
    assert sum(length > 300 for length in lengths) <= 25
    bodies = sorted(_body_lines(function) for _, function in functions())
    assert statistics.median(bodies) <= 6
    assert bodies[int(0.9 * len(bodies))] <= 20


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) and function.body[1:] else function.body
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1


def test_no_public_function_has_more_than_twelve_parameters() -> None:
    crowded = {
        name: n_parameters
        for name, function in functions()
        if not function.name.startswith("_") or function.name == "__init__"
        if (n_parameters := len(_parameters(function.args))) > 12
    }
    assert crowded == {}


def _parameters(arguments: ast.arguments) -> list[str]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [parameter.arg for parameter in every if parameter.arg not in ("self", "cls")]
