"""Does this very model do what the analyses rely on?

Hooks differ between model classes and architectures: a score that is only reported ignores edits,
a bridge skips unknown hook names, a cache can place tokens wrongly. ``doctor`` measures each of
these on the model at hand (see ``probes``) and reports a table; ``require_capabilities`` lets an
analysis refuse a model that fails what it needs.

A pass says that the mechanism works on a few random tokens. It does not say that the model is any
good, nor that longer sequences behave the same: a sliding window shows only when ``n_tokens``
exceeds it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, cast, get_args
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from torch import nn

from step_saliency.models import probes
from step_saliency.models.facts import backend_of
from step_saliency.models.identity import model_identity
from step_saliency.models.turns import turn
from step_saliency.models.undisturbed import undisturbed

Check = Literal[
    "score_edits",
    "score_softmax",
    "pattern_rows",
    "gradients",
    "value_gradients",
    "local_gradients",
    "head_edits",
    "residual_edits",
    "cached_decoding",
    "transformers_logits",
]
"""Names of the checks, which are the names of the capabilities too."""
CHECKS: tuple[Check, ...] = get_args(Check)
Status = Literal["pass", "fail", "skip"]


class Probe(NamedTuple):
    """A check: how it is measured, and what needs it."""

    measure: Callable[..., probes.Measurement]
    needed_for: str


PROBES: Mapping[Check, Probe] = {
    "score_edits": Probe(probes.score_edits, "Odds-Equal Bridge, attention knockout"),
    "score_softmax": Probe(probes.score_softmax, "Odds-Equal Bridge, streaming maps"),
    "pattern_rows": Probe(probes.pattern_rows, "Step-Saliency, attention maps"),
    "gradients": Probe(probes.gradients, "Step-Saliency"),
    "value_gradients": Probe(probes.value_gradients, "streaming maps"),
    "local_gradients": Probe(probes.local_gradients, "next-token maps in one backward pass"),
    "head_edits": Probe(probes.head_edits, "Step Momentum Injection, head ablation"),
    "residual_edits": Probe(probes.residual_edits, "residual Step Momentum, activation patching"),
    "cached_decoding": Probe(probes.cached_decoding, "generation with interventions"),
    "transformers_logits": Probe(probes.transformers_logits, "results about the checkpoint"),
}


@dataclass(frozen=True)
class CheckResult:
    """One row of the report.

    Attributes:
        check: Name of the check.
        status: ``"pass"``, ``"fail"``, or ``"skip"`` where nothing could be measured.
        value: What was measured; None if nothing was.
        threshold: What it is held to.
        needed_for: What relies on it.
        note: What the value is, or what went wrong.
    """

    check: Check
    status: Status
    value: float | None
    threshold: float | None
    needed_for: str
    note: str


@dataclass(frozen=True)
class DoctorReport:
    """What ``doctor`` found; true where no check failed (``if ss.doctor(model):``).

    Attributes:
        model: ``model_identity`` of the model.
        n_tokens: Number of tokens that the checks ran on.
        results: One result per check.
    """

    model: Mapping[str, Any]
    n_tokens: int
    results: tuple[CheckResult, ...] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether no check failed; one that was skipped did not."""
        return not self.failed

    def __bool__(self) -> bool:
        return self.passed

    @property
    def failed(self) -> tuple[Check, ...]:
        """Names of the checks that failed."""
        return tuple(result.check for result in self.results if result.status == "fail")

    @property
    def table(self) -> pd.DataFrame:
        """One row per check: check, status, value, threshold, needed_for, note."""
        return pd.DataFrame([asdict(result) for result in self.results])

    def to_frame(self) -> pd.DataFrame:
        """The same as ``table``."""
        return self.table

    def require(self, *checks: str) -> None:
        """Refuse a model that fails one of ``checks`` (all that were run, without arguments).

        Raises:
            ValueError: naming each failed check, its value and its note; or a check not run.
        """
        by_name: dict[str, CheckResult] = {result.check: result for result in self.results}
        absent = [check for check in checks if check not in by_name]
        if absent:
            raise ValueError(f"the report has no check {absent}; it has {list(by_name)}")
        results = [by_name[check] for check in checks or by_name]
        _refuse_failures(str(self.model["name"]), results)

    def __str__(self) -> str:
        title = (
            f"{self.model['name']} ({self.model['backend']}, {self.model['dtype']}, "
            f"transformer-lens {self.model['transformer_lens']}), {self.n_tokens} tokens"
        )
        header = ("check", "status", "value", "limit", "needed for")
        rows = [header, *(_cells(result) for result in self.results)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [_aligned(row, widths) for row in rows]
        notes = [f"{r.check}: {r.note}" for r in self.results if r.status != "pass"]
        return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:], *notes])

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False, na_rep="", float_format=lambda x: f"{x:.2g}")


def _cells(result: CheckResult) -> tuple[str, str, str, str, str]:
    numbers = ("" if x is None else f"{x:.2g}" for x in (result.value, result.threshold))
    value, limit = numbers
    return result.check, result.status, value, limit, result.needed_for


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join(cells).rstrip()


def _refuse_failures(name: str, results: Iterable[CheckResult]) -> None:
    failures = [
        f"{r.check} (needed for {r.needed_for}): {r.note}"
        + ("" if r.value is None else f" = {r.value:.2g}, limit {r.threshold:.2g}")
        for r in results
        if r.status == "fail"
    ]
    if failures:
        raise ValueError(f"the model {name!r} fails " + "; ".join(failures))


def doctor(
    model: nn.Module, *, n_tokens: int = 24, checks: Iterable[str] | None = None
) -> DoctorReport:
    """Check on this very model that hooks, gradients, cache and logits are what analyses assume.

    Args:
        model: HookedTransformer or TransformerBridge, with its own hooks removed.
        n_tokens: Number of random tokens to run; more than the sliding window to test that, too.
        checks: Names out of ``CHECKS``; None for all. ``transformers_logits`` reads the weights
            anew and costs as much as loading the model.

    Returns:
        A report; print it, or ask ``report.passed``, ``report.table``, ``report.require(...)``.

    Raises:
        ValueError: for an unknown check, fewer than 4 tokens, or something that is not a model.
    """
    backend_of(model)
    names = _known_checks(CHECKS if checks is None else checks)
    if n_tokens < 4:
        raise ValueError(f"n_tokens {n_tokens} is too few; take at least 4")
    with turn(model, alone="waits"), undisturbed(model, warn=False):
        tokens = probes.probe_tokens(model, n_tokens)
        results = tuple(_examine(model, check, tokens) for check in names)
    return DoctorReport(model=model_identity(model), n_tokens=tokens.shape[1], results=results)


def _known_checks(checks: Iterable[str]) -> tuple[Check, ...]:
    names = tuple(checks)
    unknown = [check for check in names if check not in CHECKS]
    if unknown:
        raise ValueError(f"unknown checks {unknown}; there are {', '.join(CHECKS)}")
    return cast(tuple[Check, ...], names)


def _examine(model: nn.Module, check: Check, tokens: torch.Tensor) -> CheckResult:
    """Run one check. Whatever it raises is a failure of the model, except for lack of memory."""
    probe = PROBES[check]
    try:
        value, threshold, passed, note = probe.measure(model, tokens)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        value, threshold, passed = None, None, False
        note = f"{type(error).__name__}: {error}"
    status: Status = "skip" if passed is None else "pass" if passed else "fail"
    return CheckResult(check, status, value, threshold, probe.needed_for, note)


_KNOWN: "WeakKeyDictionary[nn.Module, dict[Check, CheckResult]]" = WeakKeyDictionary()


def require_capabilities(model: nn.Module, capabilities: Iterable[str]) -> None:
    """Refuse a model that fails what an analysis needs; each check runs once per model.

    Args:
        model: HookedTransformer or TransformerBridge. Its weights are taken not to change
            afterwards; call ``doctor`` to examine it afresh.
        capabilities: Names of checks, e.g. ``["gradients", "score_edits"]``.

    Raises:
        ValueError: naming what the model fails and what needs it.
    """
    names = _known_checks(capabilities)
    known = _KNOWN.setdefault(model, {})
    missing = [check for check in names if check not in known]
    if missing:
        known.update({r.check: r for r in doctor(model, checks=missing).results})
    _refuse_failures(str(model_identity(model)["name"]), [known[check] for check in names])
