"""Make the tables of finished runs anew from their values: today's statistics, and no model.

    python -m analyses.running.tables results/ablation results/mediation_around

The values of the units stay as they are, and so does what the manifest says of the run; the
versions that the tables were made by stand beside it (``tables_versions``). What changed is told by
`analyses.running.changes`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.running.folder import AnalysisFolder
from analyses.running.runner import Analysis
from step_saliency.storage.files import is_file, write_text
from step_saliency.storage.lock import FolderLock
from step_saliency.storage.manifest import package_versions


def tables_anew(path: Path) -> list[str]:
    """Write the tables of one results folder again.

    Args:
        path: Folder of a finished run.

    Returns:
        Names of the tables.

    Raises:
        ValueError: the folder is no finished run of an analysis of this project, its values were
            not kept, its settings are not those of the analysis as it is, or a run writes into it.
    """
    AnalysisFolder(path, "NAME").manifest()  # nothing is locked that is no results folder
    with FolderLock(path):
        return _tables_anew(path)


def _tables_anew(path: Path) -> list[str]:
    manifest = AnalysisFolder(path, "NAME").manifest()
    name = manifest.get("analysis")
    folder = AnalysisFolder(path, str(name))
    if manifest.get("finished") is not True:
        raise ValueError(f"the run in {path} has not ended; the same command goes on")
    if not is_file(folder.table("values")):
        raise ValueError(f"{path} keeps no values, so that its tables need the run itself")
    analysis = _analysis(str(name), path)
    values = pd.read_parquet(folder.table("values"))
    settings = _settings(analysis, manifest["settings"], path)
    try:
        tables = analysis.summarise(values, settings)
    except KeyError as error:
        raise ValueError(f"{path} has values of before, without {error}; run it again") from error
    folder.write_tables(tables)
    facts = {**manifest, "tables": ["values", *tables], "tables_versions": package_versions()}
    write_text(path / "manifest.json", json.dumps(facts, indent=2))
    return list(tables)


def _analysis(name: str, path: Path) -> Analysis[Any]:
    try:
        analysis: Analysis[Any] = import_module(f"analyses.{name}").ANALYSIS
    except (ImportError, AttributeError):
        raise ValueError(f"{path} is of the analysis {name!r}, which is not here") from None
    return analysis


def _settings(analysis: Analysis[Any], written: dict[str, Any], path: Path) -> Any:
    """The settings of the run; what came later has its default."""
    given = {name: value for name, value in written.items() if name != "units"}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    try:
        settings = analysis.settings(**{**given, **lists})
    except TypeError as error:
        raise ValueError(f"{path} has settings that {analysis.name} lacks: {error}") from None
    return settings


def main(argv: Sequence[str] | None = None) -> None:
    """``python -m analyses.running.tables FOLDER ...``."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.running.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, help="results folders")
    refused = 0
    for folder in parser.parse_args(argv).folders:
        try:
            print(f"{folder}: {', '.join(tables_anew(folder))}")
        except ValueError as error:
            refused += 1
            print(f"{folder}: not made: {error}", file=sys.stderr)
    if refused:
        parser.exit(2)


if __name__ == "__main__":
    main()
