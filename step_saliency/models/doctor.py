"""Is this very model in order, and does it do what the analyses rely on?

Weights can be missing and drawn at random, attention can be dead, windows and tokenizers can be
those of another model; and hooks differ between model classes and architectures: a score that is
only reported ignores edits, a bridge skips unknown hook names, a cache can place tokens wrongly.
``doctor`` measures each of these on the model at hand (see ``checks`` and ``probes``), with at most
ten passes over a few tokens, and reports a table.

    doctor(model)                       everything, afresh
    require_sound(model)                what maps, decoding and attached edits need of every model
    require_capabilities(model, names)  what one of them needs besides

The latter two run a check once for each state of a model (its tensors, as far as their versions
tell, and its tokenizer) and keep what was found. What a map or an answer itself computes is checked
always: logits, losses and gradients that are not finite are refused wherever they come up.

A pass says that the mechanism works on a few random tokens. It does not say that the model is any
good, nor that longer sequences behave the same, except for windows, whose masks are made beyond
them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from step_saliency.models.checks import CHECKS, PROBES, SOUND, TOGETHER, Check
from step_saliency.models.facts import backend_of
from step_saliency.models.findings import (
    CheckResult,
    DoctorReport,
    Status,
    refuse_failures,
)
from step_saliency.models.hooking import silenced_hooks
from step_saliency.models.identity import model_identity, model_state
from step_saliency.models.interrupts import interruptible, together
from step_saliency.models.probes import Examination, Measurement
from step_saliency.models.turns import turn
from step_saliency.models.undisturbed import undisturbed

N_TOKENS = 24
LEAST_TOKENS = 4
REMEDY = ". If that is meant: step_saliency.models.accept(model, {names})"


def doctor(
    model: nn.Module, *, n_tokens: int = N_TOKENS, checks: Iterable[str] | None = None
) -> DoctorReport:
    """Check on this very model that it is in order and does what analyses assume.

    Args:
        model: HookedTransformer or TransformerBridge. Hooks that are on it are left out.
        n_tokens: Number of random tokens to run.
        checks: Names out of ``CHECKS``, or one; None for all. ``transformers_logits`` reads the
            weights anew and costs as much as loading the model.

    Returns:
        A report; print it, or ask ``report.passed``, ``report.table``, ``report.require(...)``.

    Raises:
        ValueError: for an unknown check, fewer than 4 tokens, or something that is not a model.
    """
    backend_of(model)
    names = _known_checks(CHECKS if checks is None else checks)
    if n_tokens < LEAST_TOKENS:
        raise ValueError(f"n_tokens {n_tokens} is too few; take at least {LEAST_TOKENS}")
    with (
        turn(model, alone="waits"),
        undisturbed(model, warn=False),
        together(torch.inference_mode(False), silenced_hooks(model)),
    ):
        examination = Examination(model, n_tokens)
        results = tuple(_examine(examination, check) for check in names)
    n_tokens = examination.tokens.shape[1]
    return DoctorReport(model=model_identity(model), n_tokens=n_tokens, results=results)


def _known_checks(checks: Iterable[str]) -> tuple[Check, ...]:
    names = (checks,) if isinstance(checks, str) else tuple(checks)
    unknown = [check for check in names if check not in CHECKS]
    if unknown:
        raise ValueError(f"unknown checks {unknown}; there are {', '.join(CHECKS)}")
    return cast(tuple[Check, ...], names)


def _examine(examination: Examination, check: Check) -> CheckResult:
    """Run one check. Whatever it raises is a failure of the model, except for lack of memory."""
    probe = PROBES[check]
    try:
        measured = probe.measure(examination)
    except Exception as error:
        if _is_lack_of_memory(error):
            raise
        first_line = (str(error).splitlines() or [""])[0]
        measured = Measurement(None, None, False, f"{type(error).__name__}: {first_line}")
    value, threshold, _, note, _ = measured
    status = _status(measured)
    return CheckResult(check, status, value, threshold, probe.needed_for, note, probe.advice)


def _is_lack_of_memory(error: Exception) -> bool:
    """Also that of PyTorch's allocator on the CPU, which has no class of its own."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "not enough memory" in str(error)


def _status(measured: Measurement) -> Status:
    if measured.passed is None:
        return "skip"
    if not measured.passed:
        return "fail"
    return "warn" if measured.warns else "pass"


@dataclass
class _Known:
    """What was found in one state of a model, and what its user knows of."""

    state: tuple[Any, ...] = ()
    results: dict[Check, CheckResult] = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()


_KNOWN: "WeakKeyDictionary[nn.Module, _Known]" = WeakKeyDictionary()


def require_sound(model: nn.Module) -> None:
    """Refuse a model that is not in order: weights, tokenizer, windows, attention.

    A transformers model, which has no hooks, is taken as it is.

    Raises:
        ValueError: naming what was found and what to do.
    """
    if not isinstance(model, PreTrainedModel):
        require_capabilities(model, SOUND)


@interruptible
def require_capabilities(model: nn.Module, capabilities: Iterable[str]) -> None:
    """Refuse a model that fails what an analysis needs; each check runs once per state.

    Args:
        model: HookedTransformer or TransformerBridge.
        capabilities: Names of checks, e.g. ``["gradients", "score_edits"]``.

    Raises:
        ValueError: naming what the model fails, what needs it and what to do.
    """
    names = _known_checks(capabilities)
    known, state = _KNOWN.setdefault(model, _Known()), model_state(model)
    if known.state != state:
        known.state, known.results = state, {}
    found = dict(known.results)
    if any(check not in found for check in names):
        found |= {r.check: r for r in doctor(model, checks=_missing(known, names)).results}
        known.results = {name: r for name, r in found.items() if not _raised(r)}
    results = [found[check] for check in names if check not in known.accepted]
    if any(result.status == "fail" for result in results):
        refuse_failures(str(model_identity(model)["name"]), results, REMEDY)


def _raised(result: CheckResult) -> bool:
    """Whether a check failed without a value: asked again next time, since errors may pass."""
    return result.status == "fail" and result.value is None


def _missing(known: _Known, names: Iterable[Check]) -> list[Check]:
    """Checks to be made: those that lack, and others that read the same pass."""
    lacking = {check for check in names if check not in known.results}
    for group in TOGETHER:
        if lacking & group:
            lacking |= group
    return [check for check in CHECKS if check in lacking]


def accept(model: nn.Module, *checks: str) -> None:
    """Have maps, decoding and edits take a model although it fails these checks, as is meant.

    Args:
        model: HookedTransformer or TransformerBridge, such as one with a head or layer cut out.
        checks: Names out of ``CHECKS``; none for all.

    Raises:
        ValueError: for an unknown check.
    """
    known = _KNOWN.setdefault(model, _Known())
    known.accepted |= frozenset(_known_checks(checks or CHECKS))
