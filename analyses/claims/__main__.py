"""``python -m analyses.claims``: writes the table of claims."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import analyses.claims
from analyses.claims.derived import derived_tables
from analyses.claims.table import claims_table, page
from step_saliency.storage.files import make_folder, write_text
from step_saliency.storage.tables import write_csv, write_frame

ROOT = Path(__file__).parents[2]


def main(argv: Sequence[str] | None = None) -> None:
    """Write ``claims/claims.csv`` and ``claims/claims.md`` beside the results."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.claims",
        description=analyses.claims.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    results = parser.parse_args(argv).results
    folder = results / "claims"
    make_folder(folder)
    for name, derived in derived_tables(results).items():
        write_frame(folder / f"{name}.parquet", derived)
    table = claims_table(results)
    write_csv(folder / "claims.csv", table)
    write_text(folder / "claims.md", page(table))
    counts = ", ".join(f"{n} {verdict}" for verdict, n in table["verdict"].value_counts().items())
    print(f"wrote {folder.name}/claims.csv and claims.md: {len(table)} readings, {counts}")


if __name__ == "__main__":
    main()
