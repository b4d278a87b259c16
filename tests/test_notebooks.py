"""The notebooks run from a fresh kernel, and what is saved of their outputs is fit to be read."""

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from notebooks.run import MOST_BYTES, cleaned, executed, faults, paths

NAMES = [path.stem for path in paths()]
LONG = ("2", "3", "4", "5")
"""A minute and more each, of calls that other tests make too."""
WHOLE = {"text/plain": "1"}


def one_cell(source: str = "1", *outputs: Any, count: int | None = 1) -> nbformat.NotebookNode:
    """A notebook with one cell and its outputs."""
    cell = new_code_cell(source, outputs=list(outputs), execution_count=count)
    return new_notebook(cells=[cell])


def result(**data: str) -> Any:
    return new_output("display_data", data={**WHOLE, **data})


def picture(colour: tuple[int, int, int]) -> str:
    """A PNG of many colours whose corner has this one."""
    image = Image.linear_gradient("L").convert("RGB")
    image.putpixel((0, 0), colour)
    file = io.BytesIO()
    image.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def test_there_are_notebooks() -> None:
    assert [name[0] for name in NAMES] == list("123456")
    assert [path.stem for path in paths(["2_", "4"])] == [NAMES[1], NAMES[3]]
    with pytest.raises(ValueError, match="no notebook begins with '7'"):
        paths(["7"])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.nightly] if name.startswith(LONG) else [])
        for name in NAMES
    ],
)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    (path,) = paths([name])
    notebook = executed(path, tmp_path, timeout=1800)
    assert list(faults(cleaned(notebook))) == []


@pytest.mark.parametrize("name", NAMES)
def test_saved_outputs_are_fit_to_be_read(name: str) -> None:
    (path,) = paths([name])
    notebook = nbformat.read(path, as_version=4)
    assert list(faults(notebook)) == []
    assert notebook == cleaned(nbformat.read(path, as_version=4))
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {name[0]} ")
    assert "Runtime:" in first.source


def test_a_cell_that_raises_is_found(tmp_path: Path) -> None:
    file = tmp_path / "broken.ipynb"
    nbformat.write(one_cell("1 / 0", count=None), file)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed(file, tmp_path)


def test_a_run_is_clean_and_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "noisy.ipynb"
    source = "import sys, os\nprint(os.listdir())\nprint('a warning', file=sys.stderr)"
    nbformat.write(one_cell(source, count=None), file)
    before, folder = file.read_text(), tmp_path / "empty"
    folder.mkdir()
    notebook = cleaned(executed(file, folder))
    (cell,) = notebook.cells
    assert [(output.name, output.text) for output in cell.outputs] == [("stdout", "[]\n")]
    assert cell.metadata == {}
    assert list(faults(notebook)) == []
    assert file.read_text() == before


def test_a_picture_keeps_its_size_and_nearly_its_colours() -> None:
    notebook = cleaned(one_cell("1", result(**{"image/png": picture((10, 200, 30))})))
    png = base64.b64decode(notebook.cells[0].outputs[0].data["image/png"])
    image = Image.open(io.BytesIO(png))
    assert (image.mode, image.size) == ("P", (256, 256))
    middle = image.convert("RGB").getpixel((128, 128))
    assert all(abs(value - 128) <= 2 for value in middle)


@pytest.mark.parametrize(
    ("notebook", "text"),
    [
        (one_cell("1", result(), count=2), "not run once each"),
        (one_cell("1", result(), count=None), "not run once each"),
        (one_cell("1"), "no outputs"),
        (one_cell("1", new_output("error", ename="E", evalue="", traceback=[])), "an error"),
        (one_cell("1", new_output("stream", name="stderr", text="w")), "a warning"),
        (one_cell("1", new_output("stream", text="in /home/me/x.py")), "/home/"),
        (one_cell("1", result(**{"text/html": "<b>'/tmp/x'</b>"})), "/tmp/"),
        (one_cell("open('/work/x')", result()), "/work/"),
        (one_cell("1", result(**{"text/html": "file:///usr/x"})), "/usr/"),
        (one_cell("1", result(**{"text/html": "x" * MOST_BYTES})), "bytes long"),
    ],
)
def test_what_is_unfit_is_said(notebook: nbformat.NotebookNode, text: str) -> None:
    (fault,) = faults(notebook)
    assert text in fault


@pytest.mark.parametrize(
    "text", ["https://example.org/work/x", "2026/tmp/", "a/usr/b", "runs/own/maps", "1/2"]
)
def test_what_is_no_place_on_a_machine_is_let_pass(text: str) -> None:
    assert not list(faults(one_cell("1", new_output("stream", text=text))))
