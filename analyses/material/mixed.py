"""Rows of a file that a model answers now right, now wrong, by the samples of an earlier run.

    python -m analyses.material.mixed --answers results/compute_matched --data rows.jsonl \\
        --n 100 --out mixed.jsonl

writes the first so many of them, with their names, for a run that compares right and wrong answers
to one problem. What is compared should be other answers than those that rows were picked by: give
that run another seed.

When it misleads: problems that are always or never solved take no part, so that what is found holds
for problems at the edge of what the model can do.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.material.conditions import BASELINE
from analyses.material.problems import Item, file_items
from step_saliency.storage.files import write_text


def mixed_problems(values: pd.DataFrame) -> list[str]:
    """Problems with right and wrong samples under no edit, in the order of the run.

    Args:
        values: Of `analyses.compute_matched`: ``problem, condition, method, is_correct``.
    """
    samples = values[(values["condition"] == BASELINE) & (values["method"] == "sample")]
    share = samples.groupby("problem", sort=False)["is_correct"].mean()
    return [str(name) for name in share.index[(share > 0) & (share < 1)]]


def mixed_items(values: pd.DataFrame, items: Sequence[Item], n: int) -> list[Item]:
    """The first n of the rows that have right and wrong samples.

    Raises:
        ValueError: fewer than n, or a problem that is not among the rows.
    """
    by_name = {item.id: item for item in items}
    names = mixed_problems(values)
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(f"{missing[0]!r} was answered, but is no row of the file")
    if len(names) < n:
        raise ValueError(
            f"n={n}: {len(names)} problems have right and wrong samples; sample more of them"
        )
    return [by_name[name] for name in names[:n]]


def main(argv: Sequence[str] | None = None) -> None:
    """Write rows to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", type=Path, required=True, help="results of compute_matched")
    parser.add_argument("--data", required=True, help="the file that it answered")
    parser.add_argument("--field", default="", help="as of the analyses")
    parser.add_argument("--n", type=int, required=True, help="rows")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    values = pd.read_parquet(options.answers / "values.parquet")
    try:
        items = mixed_items(values, file_items(options.data, field=options.field), options.n)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    lines = [json.dumps({**item.row.data, "id": item.id}) for item in items if item.row]
    write_text(options.out, "".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} rows in {options.out}")


if __name__ == "__main__":
    main()
