"""Are two expressions equal? A process of its own that answers one question a line.

Run by :mod:`step_saliency.tasks.symbolic` as a script: nothing of the package is imported, so that
it starts quickly, and what hangs is ended from outside. First line in: the module search path.
Then ``[gold, given, seconds]`` in, and true, false or null (one of them cannot be read) out.

math-verify compares numbers after chopping what is below 1e-15, so that 1/2^98 equals 1/2^99. What
it calls equal is therefore evaluated at a few points and must agree relative to its size. What it
calls unequal and has no variable but ``i`` is evaluated as a complex number.
"""

import json
import logging
import os
import random
import signal
import sys

MEMORY = 4 * 2**30
POINTS = 3
EXACT = 1e-25
"""Largest relative difference of equal expressions, at 50 digits."""
COMPLEX = 1e-12
"""The same for complex numbers, in double precision."""
ROUNDED = 1e-5
"""The same where one of them has a decimal number in it."""


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path[:] = json.loads(sys.stdin.readline())
    _limit_memory()
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401

    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        gold, given, seconds = json.loads(line)
        _end_alone(seconds)
        out.write(json.dumps(_answer(gold, given)) + "\n")
        out.flush()
        _end_alone(0)


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass


def _end_alone(seconds: float) -> None:
    """End this process after so many seconds of computing, however busy the machine is."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _answer(gold: str, given: str) -> bool | None:
    try:
        return equal(gold, given)
    except (Exception, RecursionError, MemoryError):
        return None


def equal(gold: str, given: str) -> bool | None:
    """Whether two expressions in LaTeX are equal; None if one of them cannot be read."""
    from math_verify import parse, verify
    from math_verify.parser import LatexExtractionConfig

    left, right = (
        parse(
            f"${text}$",
            [LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
        for text in (gold, given)
    )
    if not left or not right:
        return None
    same = verify(left[0], right[0], timeout_seconds=None, raise_on_error=True)
    return _agree(left[0], right[0]) if same else _one_complex_number(left[0], right[0])


def _one_complex_number(left: object, right: object) -> bool:
    """Whether two expressions in ``i`` alone, which math-verify reads as a variable, are equal."""
    from sympy import Expr, I, N  # type: ignore[import-untyped]

    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return False
    names = left.free_symbols | right.free_symbols
    if not names or any(str(name) != "i" for name in names):
        return False
    values = (N(side.subs(dict.fromkeys(names, I)).doit(), 50) for side in (left, right))
    a, b = (complex(value) for value in values)
    return bool(abs(a - b) <= COMPLEX * max(abs(a), abs(b)))


def _agree(left: object, right: object) -> bool:
    """Whether the values agree, relative to their size, at a few points."""
    from sympy import Expr, MatrixBase

    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        return left.shape == right.shape and all(
            _agree(a, b) for a, b in zip(left.flat(), right.flat(), strict=True)
        )
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return True
    return all(_agree_at(left, right, random.Random(seed)) for seed in range(POINTS))


def _agree_at(left: object, right: object, rng: random.Random) -> bool:
    from sympy import Float, N, Rational

    names = sorted(left.free_symbols | right.free_symbols, key=str)  # type: ignore[attr-defined]
    point = {name: Rational(rng.randint(11, 99), 37) for name in names}
    try:
        a, b = (N(side.subs(point).doit(), 50) for side in (left, right))  # type: ignore[attr-defined]
        size = max(abs(a), abs(b))
        if size == 0:
            return True
        rounded = left.has(Float) or right.has(Float)  # type: ignore[attr-defined]
        return bool(abs(a - b) / size < (ROUNDED if rounded else EXACT))
    except (TypeError, ValueError, AttributeError):
        return True


if __name__ == "__main__":
    main()
