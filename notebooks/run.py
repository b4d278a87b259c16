"""Run the notebooks and keep of their outputs what readers need.

    python notebooks/run.py                 # all of them
    python notebooks/run.py 2_stepflow ...  # those whose names begin so

Each notebook runs from its first cell to its last in a kernel of its own, in an empty folder, and
is written back in place with its outputs. What is dropped: warnings and progress bars (stderr),
execution times, facts about the kernel, all but 256 colours of a picture. A notebook that raises is
left as it was; one whose outputs are not fit to be kept (`faults`) is refused.
"""

import argparse
import base64
import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from step_saliency.storage.files import write_text

FOLDER = Path(__file__).parent
MOST_BYTES = 600_000
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|mnt|opt|private|root|tmp|usr|Users|var|work)/")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def paths(names: Sequence[str] = ()) -> list[Path]:
    """The notebooks whose names begin with one of ``names``; all without names.

    Raises:
        ValueError: a name that no notebook begins with.
    """
    notebooks = sorted(FOLDER.glob("*.ipynb"))
    known = [path.stem for path in notebooks]
    for name in names:
        if not any(stem.startswith(name) for stem in known):
            raise ValueError(f"no notebook begins with {name!r}; there are {known}")
    return [path for path in notebooks if not names or path.stem.startswith(tuple(names))]


def executed(path: Path, folder: Path, *, timeout: int = 300) -> NotebookNode:
    """A notebook with the outputs of a fresh run.

    Args:
        path: Notebook; it is only read.
        folder: Where its kernel runs.
        timeout: Seconds that a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    metadata = {"metadata": {"path": str(folder)}}
    return NotebookClient(
        notebook,
        kernel_name=_KERNEL["name"],
        timeout=timeout,
        startup_timeout=600,
        iopub_timeout=120,
        resources=metadata,
    ).execute()


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what is of no use to readers; changed in place."""
    notebook.metadata = NotebookNode(
        {"kernelspec": dict(_KERNEL), "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_stderr(output)]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = _with_palette(output.data["image/png"])
    return notebook


def _with_palette(png: str) -> str:
    """A picture in 256 colours, a third of the bytes, as base64 like the one that is given."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    small, plain = io.BytesIO(), image.convert("RGB")
    plain.quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _is_stderr(output: NotebookNode) -> bool:
    return output.output_type == "stream" and output.name == "stderr"


def faults(notebook: NotebookNode) -> Iterator[str]:
    """What makes the outputs unfit to be kept, in words."""
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "the cells were not run once each, in order"
    if not any(cell.outputs for cell in code):
        yield "there are no outputs"
    for number, cell in enumerate(code, start=1):
        for output in cell.outputs:
            if output.output_type == "error" or _is_stderr(output):
                yield f"cell [{number}] has an error or a warning among its outputs"
        place = _MACHINE_PATH.search("\n".join(_texts(cell.source, cell.outputs)))
        if place:
            yield f"cell [{number}] names a place on a machine: {place[0]}..."
    size = len(nbformat.writes(notebook).encode())
    if size > MOST_BYTES:
        yield f"it is {size:,} bytes long; at most {MOST_BYTES:,} are kept"


def _texts(source: str, outputs: Sequence[Any]) -> Iterator[str]:
    yield source
    for output in outputs:
        yield output.get("text", "")
        for kind, content in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield str(content)


def main() -> None:
    """Run notebooks and write them back."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of names; all by default")
    for path in paths(parser.parse_args().names):
        with tempfile.TemporaryDirectory() as folder:
            notebook = cleaned(executed(path, Path(folder)))
        wrong = list(faults(notebook))
        if wrong:
            raise SystemExit("\n".join([f"{path.name} was not written:", *wrong]))
        write_text(path, nbformat.writes(notebook).rstrip("\n") + "\n")
        print(path.name)


if __name__ == "__main__":
    main()
