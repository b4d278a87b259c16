"""Where the time of a map goes, beside a plain pass with the gradient of the embedded tokens alone.

Question: of the seconds of one map, how many are the blocks' forward pass, the loss, and the
blocks' backward pass, and how many of each are attention? Method: one process, on random
tokens; after one run of each that does not count, pairs of (plain, map) with the functions of
`step_saliency.saliency.streaming` timed from outside; medians over the pairs. Processor time stands
beside wall time, since other programs do not change it much. Rows of an earlier version of the
package are kept under its label, so that the table shows before and after:

    python benchmarks/saliency_parts.py --label after
    PYTHONPATH=OLDER_CHECKOUT python benchmarks/saliency_parts.py --label before

When it misleads: as `benchmarks/saliency.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
from saliency_methods import METHODS, load_both, make_trace

import step_saliency as ss
from step_saliency.saliency import streaming
from step_saliency.saliency.kernels.step_attention import chunked
from step_saliency.storage.files import write_text

ROOT = Path(__file__).parents[1]
PARTS = {
    "blocks forward": (streaming, "record_blocks"),
    "loss": (streaming, "loss_gradient"),
    "blocks backward": (streaming, "differentiate_blocks"),
    "of it attention, forward": (chunked, "attention"),
    "of it attention, backward": (chunked, "pool_influence"),
}
"""Parts of a map, and the function that does each; what attention is run again for counts too."""
KEYS = ["model", "n_tokens", "label", "part"]

Clock = Callable[[], tuple[float, float]]


def clock() -> tuple[float, float]:
    """Seconds of the wall and of the processor."""
    return time.perf_counter(), time.process_time()


@contextmanager
def timed(seconds: dict[str, tuple[float, float]]) -> Iterator[None]:
    """Add up what the parts take."""
    with ExitStack() as stack:
        for part, (module, name) in PARTS.items():
            stack.enter_context(patch.object(module, name, _timed(module, name, part, seconds)))
        yield


def _timed(module: Any, name: str, part: str, seconds: dict[str, Any]) -> Callable[..., Any]:
    function = getattr(module, name)

    def run(*args: Any, **options: Any) -> Any:
        began = clock()
        try:
            return function(*args, **options)
        finally:
            spent = (now - then for now, then in zip(clock(), began, strict=True))
            earlier = seconds.get(part, (0.0, 0.0))
            seconds[part] = tuple(a + b for a, b in zip(earlier, spent, strict=True))

    return run


def measure(model: Any, n_tokens: int, plain: Callable[[int], Any], pairs: int) -> pd.DataFrame:
    """Median seconds of each part, of the whole map and of the plain pass."""
    generator = torch.Generator().manual_seed(0)
    runs: dict[str, list[tuple[float, float]]] = {}
    for number in range(pairs + 1):
        tokens = torch.randint(0, model.cfg.d_vocab, (n_tokens,), generator=generator)
        parts: dict[str, tuple[float, float]] = {}
        began = clock()
        plain(n_tokens)
        between = clock()
        with timed(parts):
            ss.step_saliency(model, make_trace(tokens), method="streaming")
        ended = clock()
        parts["whole map"] = (ended[0] - between[0], ended[1] - between[1])
        parts["plain pass with gradient of inputs"] = (between[0] - began[0], between[1] - began[1])
        for part, spent in parts.items() if number else ():
            runs.setdefault(part, []).append(spent)
    rows = [
        {"part": part, "seconds": wall, "cpu_seconds": cpu}
        for part, spent in runs.items()
        for wall, cpu in [tuple(map(statistics.median, zip(*spent, strict=True)))]
    ]
    whole = {row["part"]: row for row in rows}["plain pass with gradient of inputs"]
    table = pd.DataFrame(rows)
    table["of_plain"] = table["seconds"] / whole["seconds"]
    table["cpu_of_plain"] = table["cpu_seconds"] / whole["cpu_seconds"]
    return table.assign(pairs=pairs)


def write(table: pd.DataFrame, stem: Path) -> None:
    """The table as numbers and for people."""
    table.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.4g")
    shown = table.rename(columns=lambda name: name.replace("_", " "))
    header = "| " + " | ".join(shown.columns) + " |\n|" + "---|" * len(shown.columns)
    lines = [
        "| " + " | ".join(f"{x:.2f}" if isinstance(x, float) else str(x) for x in row) + " |"
        for row in shown.itertuples(index=False)
    ]
    text = "# Where the time of a map goes\n\nSmolLM2-135M-Instruct on a CPU, float32; medians.\n\n"
    write_text(stem.with_suffix(".md"), text + "\n".join([header, *lines]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--label", required=True, help="name of this version in the table")
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args()
    stem = args.out / "smollm2-135m-parts"
    file = stem.with_suffix(".csv")
    tables = [pd.read_csv(file)] if file.exists() else []
    plain = METHODS["plain_inputs"]("smollm2-135m", "cpu")
    for name, model in load_both("smollm2-135m", "cpu").items():
        for n_tokens in args.lengths:
            rows = measure(model, n_tokens, plain, args.pairs)
            rows = rows.assign(model=name, n_tokens=n_tokens, label=args.label)
            tables.append(rows[[*KEYS, *rows.columns.difference(KEYS, sort=False)]])
            joined = pd.concat(tables).drop_duplicates(KEYS, keep="last")
            write(joined, stem)
            print(rows.to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
