"""Reading results folders: a table by name, or word that it is not there."""

from pathlib import Path

import pandas as pd


class MissingResultsError(Exception):
    """A figure's results are not there."""


def read(results: Path, folder: str, table: str = "summary") -> pd.DataFrame:
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
