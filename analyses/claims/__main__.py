"""``python -m analyses.claims``: writes the table of claims."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import analyses.claims
from analyses.claims.derived import derived_tables
from analyses.claims.page import page, with_quote
from analyses.claims.table import claims_table
from analyses.claims.tally import judged, one_each
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
    parser.add_argument(
        "--page", type=Path, help="a page whose quote between its marks is to be renewed: README.md"
    )
    options = parser.parse_args(argv)
    results = options.results
    folder = results / "claims"
    make_folder(folder)
    for name, derived in derived_tables(results).items():
        file = results / f"{name}.parquet"
        make_folder(file.parent)
        write_frame(file, derived)
    table = claims_table(results)
    write_csv(folder / "claims.csv", table)
    write_text(folder / "claims.md", page(table))
    if options.page is not None:
        text = options.page.read_text(encoding="utf-8")
        write_text(options.page, with_quote(text, table))
    estimates = judged(one_each(table))
    verdicts = estimates["verdict"].value_counts().items()
    counts = ", ".join(f"{n} {verdict}" for verdict, n in verdicts)
    print(
        f"wrote {folder.name}/claims.csv and claims.md: {len(table)} rows, of {len(estimates)} "
        f"readings that were run or cannot be tested {counts}"
    )


if __name__ == "__main__":
    main()
