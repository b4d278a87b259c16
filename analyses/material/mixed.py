"""Rows of a file that a model answers now right, now wrong, by the samples of an earlier run.

    python -m analyses.material.mixed --answers results/compute_matched --data rows.jsonl \\
        --n 100 --out mixed.jsonl

writes the first so many of them, with their names, for a run that compares right and wrong answers
to one problem. Several runs, each with its file, are read one after the other. Samples are those of
`analyses.compute_matched`, or the answers of `analyses.ablation` at a temperature. What is compared
should be other answers than those that rows were picked by: give that run another seed.

When it misleads: problems that are always or never solved take no part, so that what is found holds
for problems at the edge of what the model can do.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from analyses.material.conditions import BASELINE
from analyses.material.problems import Item, file_items
from step_saliency.storage.files import write_text


def mixed_problems(values: pd.DataFrame) -> list[str]:
    """Problems with right and wrong samples under no edit, in the order of the run.

    Args:
        values: Of `analyses.compute_matched`, ``problem, condition, method, is_correct``, or of
            `analyses.ablation`, ``problem, condition, kind, is_correct``.
    """
    column, name = ("method", "sample") if "method" in values else ("kind", "answers")
    samples = values[(values["condition"] == BASELINE) & (values[column] == name)]
    share = samples.groupby("problem", sort=False)["is_correct"].mean()
    return [str(name) for name in share.index[(share > 0) & (share < 1)]]


def mixed_items(runs: Iterable[tuple[pd.DataFrame, Sequence[Item]]], n: int) -> list[Item]:
    """The first n of the rows that have right and wrong samples.

    Args:
        runs: Values of each run, and the rows that it answered.
        n: Rows.

    Raises:
        ValueError: fewer than n, or a problem that is not among the rows.
    """
    mixed: list[Item] = []
    for values, items in runs:
        by_name = {item.id: item for item in items}
        names = mixed_problems(values)
        missing = [name for name in names if name not in by_name]
        if missing:
            raise ValueError(f"{missing[0]!r} was answered, but is no row of the file")
        mixed += [by_name[name] for name in names]
    if len(mixed) < n:
        raise ValueError(
            f"n={n}: {len(mixed)} problems have right and wrong samples; sample more of them"
        )
    return mixed[:n]


def main(argv: Sequence[str] | None = None) -> None:
    """Write rows to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--answers", type=Path, nargs="+", required=True, help="results of runs with samples"
    )
    parser.add_argument("--data", nargs="+", required=True, help="the file that each answered")
    parser.add_argument("--field", default="", help="as of the analyses")
    parser.add_argument("--n", type=int, required=True, help="rows")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        items = mixed_items(_runs(options), options.n)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    lines = [json.dumps({**item.row.data, "id": item.id}) for item in items if item.row]
    write_text(options.out, "".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} rows in {options.out}")


def _runs(options: argparse.Namespace) -> Iterator[tuple[pd.DataFrame, Sequence[Item]]]:
    if len(options.answers) != len(options.data):
        raise ValueError(
            f"{len(options.answers)} results and {len(options.data)} files; give one file for each"
        )
    for folder, data in zip(options.answers, options.data, strict=True):
        values = pd.read_parquet(folder / "values.parquet")
        yield values, file_items(data, field=options.field)


if __name__ == "__main__":
    main()
