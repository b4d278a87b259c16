"""Which claims of the method hold here? The page `results/FINDINGS.md`, made from its tables.

    python -m analyses.findings            # writes results/FINDINGS.md; needs no model

Every number on the page is read from a results folder when the page is written: an estimate with
its 95% interval, the number of problems, and the p-value with Holm's correction within its table
where one was tested. The words beside the numbers are written by hand, for the tables that are
there now: run an analysis anew, and read them again. A line whose table is missing says so.

When it misleads: a small model of one task. An interval around zero that is narrow says that an
effect is small here, not that it is small elsewhere.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]
MODEL = "bundled reasoner, 1.5M parameters, medium problems in symbols"
PERCENT = "percentage points of accuracy"


@dataclass(frozen=True)
class Line:
    """One row of a table on the page.

    Attributes:
        what: What was measured.
        table: Results folder and table, such as ``"ablation/summary"``.
        where: Column values that choose its row; None chooses a missing value.
        scale: Factor on the numbers, 100 for percentage points.
        role: ``"estimate"`` or ``"control"``.
    """

    what: str
    table: str
    where: Mapping[str, Any]
    scale: float = 1.0
    role: str = "estimate"


@dataclass(frozen=True)
class Claim:
    """A claim, what was found, and how far that carries.

    Attributes:
        claim: As the paper, or this project, puts it.
        found: In words.
        lines: In numbers.
        carries: How far.
        model: On which model.
    """

    claim: str
    found: str
    lines: Sequence[Line] = field(default=())
    carries: str = ""
    model: str = MODEL


def _curves(what: str, metric: str, control: str) -> Line:
    where = {"metric": metric, "control": control, "layer": None}
    return Line(what, "depth_curves/comparison", where, role=_role(control != "none"))


def _before(what: str, index: str, control: str) -> Line:
    return Line(what, "mediation/prediction", {"index": index, "control": control}, role="control")


def _accuracy(what: str, condition: str, *, control: bool = False) -> Line:
    where = {"condition": condition}
    return Line(what, "ablation/summary", where, 100, _role(control))


def _placebo(what: str, condition: str, reference: str) -> Line:
    where = {"condition": condition, "reference": reference}
    return Line(what, "ablation/placebos", where, 100, "control")


def _margin(what: str, contrast: str, *, control: bool = False) -> Line:
    where = {"contrast": contrast, "outcome": "margin"}
    return Line(what, "mediation/summary", where, role=_role(control))


def _role(is_control: bool) -> str:
    return "control" if is_control else "estimate"


def _planted(what: str, condition: str, *, control: bool = False) -> Line:
    where = {"condition": condition}
    return Line(what, "mediation/injection_accuracy", where, 100, _role(control))


def _flow(what: str, condition: str, *, control: bool = False) -> Line:
    return Line(what, "error_kinds/flow", {"condition": condition}, 100, _role(control))


def _way(what: str, condition: str, **where: Any) -> Line:
    return Line(what, "compute_matched/comparisons", {"condition": condition, **where}, 100)


def _steered(what: str, condition: str, *, control: bool = False) -> Line:
    where = {"condition": condition, "reference": "baseline", "outcome": "margin"}
    return Line(what, "head_steering_transfer/summary", where, role=_role(control))


def _steered_answers(what: str, condition: str, *, control: bool = False) -> Line:
    where = {"condition": condition, "reference": "baseline"}
    return Line(what, "head_steering_transfer/accuracy", where, 100, _role(control))


def _vote(k: int) -> Line:
    where = {"question": "same way", "method": "vote", "k": k}
    return _way(f"vote of {k}, StepFlow − none", "both", **where)


CLAIMS = (
    Claim(
        "Shallow lock-in marks errors",
        "Yes for whole traces, no before the error. Error traces have a higher lock-in index than "
        "correct traces of the same problem, also at equal length. Up to the step before the first "
        "wrong one, error and correct traces do not differ: the index goes with having gone wrong, "
        "and nothing here says that it comes first.",
        (
            _curves("lock-in index, error − correct, same problem", "lock_in_index", "none"),
            _curves("the same, traces matched by length", "lock_in_index", "length"),
            _before(
                "steps before the first error only, same problem and cut", "lock_in_index", "within"
            ),
            _before("the same, other problem, matched by length", "lock_in_index", "matched"),
        ),
        "Teacher-forced maps of the model's own samples at temperature 1. Correct and error traces "
        "of a problem are often the same text up to the error, so that many pairs before it are "
        "exactly alike.",
    ),
    Claim(
        "Deep decay marks errors",
        "Not shown. The decay index of error traces is higher by an amount whose interval reaches "
        "zero, with and without matching by length; before the error, what deep layers take from "
        "earlier thinking does not differ either.",
        (
            _curves("decay index, error − correct, same problem", "decay_index", "none"),
            _curves("the same, traces matched by length", "decay_index", "length"),
            _before(
                "share of thinking rows on earlier steps, before the first error", "reach", "within"
            ),
            _before("the same, other problem, matched by length", "reach", "matched"),
        ),
        "Solutions have one summary of one sentence, so that there is little room for decay.",
    ),
    Claim(
        "OEB helps",
        "No. At the paper's strength as many answers are corrected as are broken, and a bridge of "
        "keys drawn by lot does the same. More strength does harm. Where a wrong answer goes "
        "wrong, OEB does raise the right token against the written one, but about as much is "
        "gained when the mass is taken from the current part and withheld from the bridge: what "
        "moves the prediction there is less of the present, not more of the bridge.",
        (
            _accuracy("accuracy, OEB − none, in points", "oeb"),
            _placebo("OEB − bridge by lot", "oeb", "oeb-bridge"),
            _placebo("OEB − smoothing of the same rows", "oeb", "oeb-smooth"),
            _accuracy("tau_max 0.3 − none", "oeb-tau-0.3"),
            _accuracy("tau_max 0.6 − none", "oeb-tau-0.6"),
            _margin("log-odds of the right token at the error, tau_max 0.3, nats", "bridge total"),
            _margin(
                "of this, with the mass withheld from the bridge",
                "bridge with its gain diverted",
                control=True,
            ),
            _margin(
                "of this, through the bridge (difference)",
                "bridge through the bridge",
                control=True,
            ),
        ),
        "Greedy answers. Effects of more than about 1.5 points either way can be ruled out here at "
        "the paper's strength.",
    ),
    Claim(
        "SMI helps",
        "No. At the paper's strength hardly any answer changes. Stronger injection does nothing "
        "and then harm, momentum in random directions does the same as the real one, and where "
        "answers go wrong the right token, if anything, loses.",
        (
            _accuracy("accuracy, SMI − none, in points", "smi"),
            _placebo("SMI − random boundaries", "smi", "smi-boundaries"),
            _placebo("SMI − random directions of equal norm", "smi", "smi-direction"),
            _accuracy("alpha 0.5 − none", "smi-alpha-0.5"),
            _accuracy("alpha 1 − none", "smi-alpha-1"),
            _margin("log-odds of the right token at the error, alpha 0.5, nats", "momentum total"),
            _margin(
                "against random directions", "momentum against random directions", control=True
            ),
            _margin(
                "through the summary's sight of the thinking (errors come before it)",
                "momentum through the summary",
                control=True,
            ),
        ),
        "As for OEB.",
    ),
    Claim(
        "Both together help more",
        "No. Both together change nothing measurable, and their interaction is zero within half a "
        "point or so.",
        (
            _accuracy("accuracy, both − none, in points", "both"),
            Line("both − OEB − SMI + none", "ablation/contrasts", {"contrast": "interaction"}, 100),
        ),
        "As for OEB.",
    ),
    Claim(
        "Quarter bands are best",
        "Not shown: no choice of layers differs from none, quarter, third, half, automatic or "
        "drawn by lot, except that one lot of random layers may do harm.",
        (
            _accuracy("quarter − none, in points", "both"),
            _accuracy("third − none", "both-third"),
            _accuracy("half − none", "both-half"),
            _accuracy("automatic (change points of depth curves) − none", "both-automatic"),
            _accuracy("random layers, first lot − none", "both-random-0", control=True),
            _accuracy("random layers, second lot − none", "both-random-1", control=True),
        ),
        "A model of eight layers: a quarter is two.",
    ),
    Claim(
        "Propagation errors are repaired more than conceptual ones",
        "Not shown: errors of flow (premise, order, recall, summary) are corrected about as often "
        "as local ones (arithmetic, format), and the placebos do no worse. Per kind, what is "
        "corrected is of the size of what is caused.",
        (
            _flow("rate corrected, flow − local, OEB, in points", "oeb"),
            _flow("the same, both", "both"),
            _flow("bridge by lot", "oeb-bridge", control=True),
            _flow("smoothing", "oeb-smooth", control=True),
        ),
        "Errors of greedy answers; local errors are few.",
    ),
    Claim(
        "Worth 1.35 times the compute",
        "No gain to set against a cost. A vote of eight answers gains seven to nine points for "
        "eight times the tokens, with StepFlow or without; at equal votes StepFlow changes nothing "
        "measurable. Longer answers gain nothing, since answers end by themselves. What decoding "
        "with StepFlow costs is in `benchmarks/results/smollm2-135m-decoding.md`.",
        (
            _way(
                "StepFlow − none, greedy", "both", question="same way", method="greedy", limit=384
            ),
            _way("StepFlow − none, one sample", "both", question="same way", method="sample"),
            _vote(2),
            _vote(4),
            _vote(8),
            _way("vote of 4 − greedy, no StepFlow", "baseline vote-4"),
            _way("vote of 8 − greedy, no StepFlow", "baseline vote-8"),
            _way("vote of 8 − greedy, StepFlow", "both vote-8"),
        ),
        f"In {PERCENT}. Processor time in `compute_matched` was taken on a busy machine, the "
        "baseline always first, and is no evidence; tokens and operations are.",
    ),
    Claim(
        "Planted lock-in causes errors",
        "Forced mass on the current step breaks answers, in shallow layers and more in deep ones. "
        "The errors that appear are of premises and layout (shallow) and of premises and order "
        "(deep), not of arithmetic (`mediation/injection_kinds`). As much mass on keys drawn by "
        "lot breaks nearly all answers: attention that is disturbed at all breaks them, and "
        "lock-in breaks fewer than an arbitrary disturbance.",
        (
            _planted(
                "shallow layers, half of the mass on the current step − none", "lock-in-shallow-0.5"
            ),
            _planted("deep layers, the same", "lock-in-deep-0.5"),
            _planted("shallow layers, as much on keys by lot", "random-shallow-0.5", control=True),
        ),
        f"In {PERCENT}. An intervention far larger than what differs between traces.",
    ),
    Claim(
        "A few heads carry the repair",
        "For the prediction at the error yes, for the answer no. The bridge in one head (layer 4, "
        "head 3) raises the right token there as much as the bridge in the whole bottom quarter, "
        "and heads picked on one half of the problems do so on the other half, where heads by lot "
        "do not. Answers get worse all the same, under the best heads as under the band; heads by "
        "lot leave them as they are. So the heads that matter for the choice are found, and the "
        "bridge disturbs right choices in them as it does wrong ones.",
        (
            Line(
                "log-odds of the right token at the error, bridge in layer 4, head 3, nats",
                "head_steering/summary",
                {"condition": "L4H3", "way": "oeb", "outcome": "margin"},
            ),
            _steered("bridge in the bottom quarter", "band"),
            _steered("in the best 4 heads of the other half", "top-4"),
            _steered("in 4 heads by lot", "random-4", control=True),
            _steered_answers("accuracy, bottom quarter − none, in points", "band"),
            _steered_answers("best 2 heads − none", "top-2"),
            _steered_answers("best 8 heads − none", "top-8"),
            _steered_answers("8 heads by lot − none", "random-8", control=True),
        ),
        "At tau_max 0.3, twice the paper's strength, at which effects can be told apart. Heads by "
        "lot are one lot for each half of the problems.",
    ),
)


def render(results: Path) -> str:
    """The page.

    Args:
        results: Folder of results folders.
    """
    verdicts = [f"{n}. {c.claim}: *{_verdict(c)}*" for n, c in enumerate(CLAIMS, 1)]
    parts = [HEAD, "\n".join(verdicts) + "\n"]
    for number, claim in enumerate(CLAIMS, 1):
        parts.append(f"## {number}. {claim.claim}\n\n{claim.found}\n")
        parts.append("\n".join([*TABLE, *(_row(line, results) for line in claim.lines)]) + "\n")
        parts.append(f"Model: {claim.model}. How far it carries: {claim.carries}\n")
    return "\n".join(parts)


HEAD = """# Findings

For each claim of "Reasoning Fails Where Step Flow Breaks" (ACL 2026) what was found with this
toolkit: estimates with 95% intervals over problems, controls beside them, p-values with Holm's
correction within their table. Written by `python -m analyses.findings` from the tables in this
folder. The paper's models (R1-Distill, GPT-OSS) were not at hand; nothing here says what holds for
them.
"""
TABLE = ("| measured | role | estimate | n | p (Holm) | table |", "|---|---|---:|---:|---:|---|")


def _verdict(claim: Claim) -> str:
    """The first words of what was found, up to a stop or colon."""
    first = re.split(r"[.:] ", claim.found)[0]
    return first[0].lower() + first[1:]


def _row(line: Line, results: Path) -> str:
    file = results / f"{line.table}.parquet"
    if not file.is_file():
        return f"| {line.what} | {line.role} | not run | | | `{line.table}` |"
    row = one_row(pd.read_parquet(file), line.where, name=line.table)
    numbers = [row[name] * line.scale for name in ("estimate", "lower", "upper")]
    estimate = "{:+.3g} [{:+.3g}, {:+.3g}]".format(*(round(x, 4) + 0.0 for x in numbers))
    p = row.get("p_holm", row.get("p_value", row.get("p")))
    p = row.get("p") if pd.isna(p) else p
    told = "" if p is None or pd.isna(p) else f"{p:.2g}"
    return f"| {line.what} | {line.role} | {estimate} | {row['n']} | {told} | `{line.table}` |"


def one_row(table: pd.DataFrame, where: Mapping[str, Any], *, name: str) -> pd.Series:
    """The row with these values.

    Raises:
        ValueError: a column is lacking, or not exactly one row has the values.
    """
    chosen = table
    for column, value in where.items():
        if column not in table.columns:
            raise ValueError(f"{name} has no column {column!r}; it has {list(table.columns)}")
        known = chosen[column]
        chosen = chosen[known.isna() if value is None else (known == value).fillna(False)]
    if len(chosen) != 1:
        raise ValueError(f"{len(chosen)} rows of {name} have {dict(where)}; exactly one should")
    return chosen.iloc[0]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m analyses.findings", description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args(argv)
    page = options.results / "FINDINGS.md"
    page.write_text(render(options.results), encoding="utf-8")
    print(f"wrote {page.name}: {len(CLAIMS)} claims")


if __name__ == "__main__":
    main()
