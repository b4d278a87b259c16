"""``python -m figures``: draw every figure whose results are there.

Each module of this package with a function ``make`` is a figure: ``make(results)`` reads saved
tables and returns the figure and the rows that it shows. With ``--suffix qwen`` it reads the
folders ``ablation_qwen`` and so on, and files end in the same.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pandas as pd
from matplotlib.figure import Figure

import figures
from figures.results import AnyResults, MissingResultsError, Results
from figures.style import save

ROOT = Path(__file__).parents[1]


def all_figures() -> dict[str, Callable[[AnyResults], tuple[Figure, pd.DataFrame]]]:
    """Functions that make figures, by the name of their files."""
    names = [module.name for module in iter_modules(figures.__path__) if module.name[0] != "_"]
    modules = [import_module(f"figures.{name}") for name in names]
    return {module.NAME: module.make for module in modules if hasattr(module, "make")}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw figures.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        0; 1 if no figure could be drawn, or the results of one cannot be read.

    Raises:
        SystemExit: with 2, for an unknown figure or a place that cannot be written.
    """
    known = all_figures()
    parser = argparse.ArgumentParser(prog="python -m figures", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--suffix", help="what folders of another model end in: reporter, qwen")
    parser.add_argument("--out", type=Path, default=ROOT / "figures" / "out")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no figures {unknown}; there are {', '.join(known)}")
    results: AnyResults = options.results
    ending = f"_{options.suffix}" if options.suffix else ""
    if ending:
        results = Results(options.results, ending)
    drawn, broken = 0, 0
    for name in options.names or known:
        started = time.perf_counter()
        try:
            figure, data = known[name](results)
        except MissingResultsError as missing:
            print(f"{name}: skipped, {missing}")
            continue
        except (OSError, ValueError, KeyError) as error:
            print(f"{name}: its results cannot be read: {error}", file=sys.stderr)
            broken += 1
            continue
        try:
            save(figure, data, options.out, f"{name}{ending}")
        except OSError as error:
            parser.error(str(error))
        drawn += 1
        seconds = time.perf_counter() - started
        print(f"{name}: {options.out / name}{ending}.png, .pdf, .csv ({seconds:.1f} s)")
    return 0 if drawn and not broken else 1


if __name__ == "__main__":
    sys.exit(main())
