"""Reading results folders: a table by name, or word that it is not there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from figures.style import label


class MissingResultsError(Exception):
    """A figure's results are not there."""


@dataclass(frozen=True)
class Results:
    """Results folders of one model.

    Attributes:
        path: Folder of results folders.
        suffix: What the names of the model's folders end in: ``_reporter``, ``_qwen``; empty for
            the bundled reasoner's.
    """

    path: Path
    suffix: str = ""

    def __truediv__(self, folder: str) -> Path:
        return self.path / f"{folder}{self.suffix}"


AnyResults = Path | Results
"""A folder of results folders: of the bundled reasoner, or of a model by its suffix."""


def read(results: AnyResults, folder: str, table: str = "summary") -> pd.DataFrame:
    """A table of a results folder, parquet or else CSV.

    Raises:
        MissingResultsError: it is not there.
    """
    for ending, reader in ((".parquet", pd.read_parquet), (".csv", pd.read_csv)):
        file = results / folder / f"{table}{ending}"
        if file.is_file():
            frame: pd.DataFrame = reader(file)
            return frame
    raise MissingResultsError(f"{results / folder} holds no {table}.parquet")


def read_all(
    results: AnyResults, folder: str, others: tuple[str, ...], table: str = "summary"
) -> pd.DataFrame:
    """The same table of a folder and of its variants ``FOLDER_OTHER``, those that are there.

    Returns:
        The tables joined, with a column ``setting``: what was run, as `setting` says it.

    Raises:
        MissingResultsError: none is there.
    """
    tables = []
    for name in (folder, *(f"{folder}_{other}" for other in others)):
        try:
            tables.append(read(results, name, table).assign(setting=setting(results / name)))
        except MissingResultsError:
            continue
    if not tables:
        raise MissingResultsError(f"{results / folder} holds no {table}.parquet")
    return pd.concat(tables, ignore_index=True)


def setting(folder: Path) -> str:
    """Model and problems of a results folder, by its manifest; its name where it has none."""
    file = folder / "manifest.json"
    if not file.is_file():
        return folder.name
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["settings"]
    data = settings.get("data", "task")
    problems = "task" if data == "task" else Path(data).stem
    return f"{label(settings['model'])}, {label(problems)}"
