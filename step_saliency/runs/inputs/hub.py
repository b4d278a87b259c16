"""Folders of data files and data sets of Hugging Face, from disk or by name."""

import re
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from step_saliency.runs.inputs.containers import Numbered

NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+){0,2}")
"""``owner/name``, with a split after a colon if there are several: ``owner/name:train``; with a
configuration before it if there are several of these: ``owner/name:main:train``."""
DATA_FILES = re.compile(r".*\.(jsonl|json|parquet|eval|csv|tsv|arrow)(\.gz)?", re.IGNORECASE)
TABLE_FILES = re.compile(r".*\.(csv|tsv|arrow)(\.gz)?", re.IGNORECASE)
BOOKKEEPING = frozenset(
    {"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json"}
)
FILE_ENDS = frozenset(
    {".jsonl", ".json", ".parquet", ".gz", ".eval", ".csv", ".tsv", ".arrow", ".txt"}
)


def read_folder(
    path: Path, read: Callable[[Path], Iterable[Numbered]]
) -> Iterator[tuple[str, Numbered]]:
    """Values of a folder: a saved data set, or all its data files; each with its file's stem.

    Tables (CSV, TSV, Arrow) are read where no other data files are: they may be about these.

    Args:
        path: The folder.
        read: Values of a file.

    Raises:
        ValueError: it holds neither.
    """
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        yield from _numbered(path.name, _from_disk(path))
        return
    results = {place.parent for place in path.rglob("manifest.json") if _is_manifest(place)}
    every = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and _is_data(file) and results.isdisjoint(file.parents)
    ]
    files = [file for file in every if TABLE_FILES.fullmatch(file.name) is None] or every
    if not files:
        raise ValueError(
            f"{path} is a folder without data files (.jsonl, .json, .parquet, .csv, .gz)"
        )
    for file in files:
        for numbered in read(file):
            yield stem(file), numbered


def _is_manifest(file: Path) -> bool:
    """Whether a file is the manifest of a results folder, which is no input."""
    if not file.is_file():
        return False
    with file.open("rb") as start:
        return b'"format": "step-saliency-' in start.read(200)


def _is_data(file: Path) -> bool:
    return DATA_FILES.fullmatch(file.name) is not None and file.name not in BOOKKEEPING


def stem(path: Path) -> str:
    """Name of a file without what says how it is packed."""
    inner = re.compile(r"\.(jsonl|json|parquet|csv|tsv|arrow)$", re.IGNORECASE)
    return inner.sub("", path.stem) if path.suffix.lower() == ".gz" else path.stem


def is_name(path: Path) -> bool:
    """Whether a path that is not there may be the name of a data set."""
    ending = Path(str(path).partition(":")[0]).suffix
    return NAME.fullmatch(str(path)) is not None and ending not in FILE_ENDS


def read_name(name: str) -> Iterator[tuple[str, Numbered]]:
    """Rows of a data set of the hub.

    Raises:
        ValueError: there is no such data set to be had.
    """
    _need_package(name)
    from datasets import load_dataset

    repository, *parts = name.split(":")
    config = {"name": parts[0]} if len(parts) == 2 else {}
    try:
        data = load_dataset(repository, **config, split=parts[-1] if parts else None)
    except Exception as error:  # of many libraries below
        said = " ".join(str(error).splitlines()[:2])
        hint = "; give one: NAME:CONFIG:SPLIT" if "Config name is missing" in said else ""
        raise ValueError(
            f"there is no file or folder {name}, and no data set of that name can be loaded: "
            f"{type(error).__name__}: {said}{hint}"
        ) from None
    yield from _numbered(repository.rpartition("/")[2], _one_split(data, name))


def _from_disk(path: Path) -> Any:
    _need_package(str(path))
    from datasets import load_from_disk

    try:
        return _one_split(load_from_disk(str(path)), str(path))
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no whole saved data set: {error}") from None


def _one_split(data: Any, name: str) -> Any:
    if not isinstance(data, dict):
        return data
    if len(data) == 1:
        return next(iter(data.values()))
    raise ValueError(
        f"{name} has several splits ({', '.join(data)}); give one: NAME:SPLIT, or its folder"
    )


def _numbered(name: str, data: Any) -> Iterator[tuple[str, Numbered]]:
    return ((name, numbered) for numbered in enumerate(data, start=1))


def _need_package(name: str) -> None:
    if find_spec("datasets") is None:
        raise ValueError(
            f"there is no file {name}; a saved data set, or one of the hub, needs: "
            "pip install datasets"
        )
