"""What the doctor found: one result per check, as a report that prints well."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pandas as pd

from step_saliency.models.checks import Check

Status = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True)
class CheckResult:
    """One row of the report.

    Attributes:
        check: Name of the check.
        status: ``"pass"``, ``"fail"``, ``"warn"`` for what is worth knowing and refused by nobody,
            or ``"skip"`` where nothing could be measured.
        value: What was measured; None if nothing was.
        threshold: What it is held to.
        needed_for: What relies on it.
        note: What was found.
        advice: What to do, where it failed.
    """

    check: Check
    status: Status
    value: float | None
    threshold: float | None
    needed_for: str
    note: str
    advice: str = ""

    @property
    def found(self) -> str:
        """What was found, in words."""
        if self.value is None or self.threshold in (None, 0.0):
            return self.note
        return f"{self.note}: {self.value:.2g}, limit {self.threshold:.2g}"

    @property
    def failure(self) -> str:
        """What was found, what needs it and what to do."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.check} (needed for {self.needed_for}): {self.found}{advice}"


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
        """Whether no check failed; one that was skipped or warned did not."""
        return not self.failed

    def __bool__(self) -> bool:
        return self.passed

    @property
    def failed(self) -> tuple[Check, ...]:
        """Names of the checks that failed."""
        return tuple(result.check for result in self.results if result.status == "fail")

    @property
    def table(self) -> pd.DataFrame:
        """One row per check: check, status, value, threshold, needed_for, note, advice."""
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
        refuse_failures(str(self.model["name"]), [by_name[name] for name in checks or by_name])

    def __str__(self) -> str:
        title = (
            f"{self.model['name']} ({self.model['backend']}, {self.model['dtype']}, "
            f"transformer-lens {self.model['transformer_lens']}), {self.n_tokens} tokens"
        )
        rows = [("check", "status", "found"), *(_cells(result) for result in self.results)]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
        return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]])

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False, na_rep="", float_format=lambda x: f"{x:.2g}")


def _cells(result: CheckResult) -> tuple[str, str, str]:
    if result.status == "pass":
        return result.check, result.status, result.found
    needed = f" (needed for {result.needed_for})"
    advice = f"; {result.advice}" if result.advice and result.status != "skip" else ""
    return result.check, result.status, f"{result.found}{needed}{advice}"


def refuse_failures(name: str, results: Iterable[CheckResult], remedy: str = "") -> None:
    """Refuse a model in which a check failed.

    Raises:
        ValueError: naming each, what was found and what to do.
    """
    failures = [result for result in results if result.status == "fail"]
    if failures:
        said = "; ".join(result.failure for result in failures)
        names = ", ".join(repr(result.check) for result in failures)
        raise ValueError(f"the model {name!r} fails {said}{remedy.format(names=names)}")
