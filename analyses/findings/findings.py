"""Which claims of the method hold here? The page `results/FINDINGS.md`, made from its tables.

    python -m analyses.findings            # writes results/FINDINGS.md; needs no model

Every number in the page's tables is read from a results folder when the page is written: an
estimate with its 95% interval, the number of problems, and the p-value where one was tested. The
words beside them, and the few numbers in these, are written by hand, for the results that are
there now: run an analysis anew, and read them again. A line whose table is missing says so.

When it misleads: a small model of one task. An interval around zero that is narrow says that an
effect is small here, not that it is small elsewhere.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[2]
MODEL = "bundled reasoner, 1.5M parameters, medium problems in symbols"
SMOLLM2 = "SmolLM2-135M-Instruct, the first problems of GSM8K's test set"
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


def _curves(metric: str, name: str) -> tuple[Line, ...]:
    """Error minus correct, under the paper's reading of the map and under another."""
    lines = []
    for folder, reading in (("", ""), ("_log_odds", " under log-odds, mass, target rows")):
        for control, pairs in (("none", "same problem"), ("length", "pairs of similar length")):
            where = {"metric": metric, "control": control, "layer": None}
            what = f"{name}{reading}, error − correct, {pairs}"
            table = f"depth_curves{folder}/comparison"
            lines.append(Line(what, table, where, role=_role(control != "none")))
    return tuple(lines)


def _before(what: str, index: str, control: str) -> Line:
    return Line(what, "mediation/prediction", {"index": index, "control": control}, role="control")


def _accuracy(what: str, condition: str, *, control: bool = False) -> Line:
    where = {"condition": condition}
    return Line(what, "ablation/summary", where, 100, _role(control))


def _placebo(what: str, condition: str, reference: str) -> Line:
    where = {"condition": condition, "reference": reference}
    return Line(what, "ablation/placebos", where, 100, "control")


def _loss_placebo(what: str, condition: str, reference: str, outcome: str) -> Line:
    where = {"condition": condition, "reference": reference, "outcome": outcome}
    return Line(what, "ablation/loss_placebos", where, 1000, "control")


def _gold_loss(what: str, condition: str, outcome: str = "loss", *, control: bool = False) -> Line:
    where = {"condition": condition, "outcome": outcome}
    return Line(what, "ablation/losses", where, 1000, _role(control))


def _change(what: str, condition: str, *, control: bool = False) -> Line:
    where = {"condition": condition, "state": "format"}
    return Line(what, "error_kinds/changes", where, 100, _role(control))


def _path(what: str, condition: str) -> Line:
    return Line(what, "mediation/paths", {"condition": condition, "variable": "margin"})


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


def _steered(what: str, condition: str, outcome: str, *, control: bool = False) -> Line:
    where = {"condition": condition, "reference": "baseline", "outcome": outcome}
    scale = 1000 if outcome == "loss" else 1
    return Line(what, "head_steering_transfer/summary", where, scale, _role(control))


def _steered_answers(what: str, condition: str, *, control: bool = False) -> Line:
    where = {"condition": condition, "reference": "baseline"}
    return Line(what, "head_steering_transfer/accuracy", where, 100, _role(control))


def _faithful(what: str, measure: str, *, control: bool = False, **of: Any) -> Line:
    where = {"scope": "all", "measure": measure, "fraction": None, **of}
    return Line(what, "faithfulness/summary", where, role=_role(control))


def _against_attention(what: str, name: str, measure: str) -> Line:
    where = {"scope": "all", "measure": measure, "map": name, "reference": "attention mass"}
    return Line(what, "faithfulness/differences", where, role="control")


def _cuts() -> tuple[Line, ...]:
    """How well maps foretell the effects of single cuts, and of cuts taken together."""
    loss: dict[str, Any] = {"method": "saliency", "objective": "next_token", "pool": "mass"}
    log_odds: dict[str, Any] = {**loss, "objective": "log_odds"}
    attention: dict[str, Any] = {"method": "attention", "pool": "mass"}
    alone = "rank correlation with the KL of a cut: Step-Saliency, paper's objective, mass"
    together = "area under deletion: paper's objective, mass (more is better)"
    return (
        _faithful(alone, "rho_kl", **loss),
        _faithful("log-odds, mass", "rho_kl", **log_odds),
        _faithful("attention, mass", "rho_kl", control=True, **attention),
        _faithful("distance", "rho_kl", control=True, method="distance"),
        _faithful("random", "rho_kl", control=True, method="random"),
        _against_attention("paper's objective − attention", "saliency next_token mass", "rho_kl"),
        _against_attention("log-odds − attention", "saliency log_odds mass", "rho_kl"),
        _faithful(together, "deletion_auc", **loss),
        _faithful("log-odds, mass", "deletion_auc", **log_odds),
        _faithful("attention, mass", "deletion_auc", control=True, **attention),
        _faithful("order of the measured effects", "deletion_auc", control=True, method="oracle"),
        _faithful("random", "deletion_auc", control=True, method="random"),
    )


def _premises(what: str, head: str, *, control: bool = False, **of: Any) -> Line:
    where = {"family": "symbols", "pool": "mass", "edge": "premise", "layer": None, "head": head}
    return Line(what, "gold_graph/headline", where | of, role=_role(control))


def _patched(what: str, kind: str, layer: int, role: str, *, control: bool = False) -> Line:
    where = {"kind": kind, "direction": "denoising", "site": "resid_post", "layer": layer}
    where |= {"role": role, "head": None}
    return Line(what, "patching/summary", where, role=_role(control))


def _cut_path(what: str, role: str, layer: int | None, *, control: bool = False) -> Line:
    where = {"kind": "premise", "site": "edge", "role": role, "layer": layer, "head": None}
    return Line(what, "patching/summary", where, role=_role(control))


def _other_text(what: str, metric: str, text: str, method: str, *, control: bool = False) -> Line:
    where = {"text": text, "splitter": "sentence", "method": method, "metric": metric}
    return Line(what, "granularity/summary", where, role=_role(control))


def _on_smollm2(line: Line) -> Line:
    """The same measured on SmolLM2."""
    return replace(line, table=line.table.replace("/", "_smollm2/"))


def _vote(k: int) -> Line:
    where = {"question": "same way", "method": "vote", "k": k}
    return _way(f"vote of {k}, StepFlow − none", "both", **where)


CLAIMS = (
    Claim(
        "Shallow lock-in marks errors",
        "Yes for whole traces, no before the error. Error traces have a higher lock-in index than "
        "correct traces of the same problem, under the paper's objective and under log-odds, also "
        "among pairs of similar length, where they are still two tokens shorter. Up to the step "
        "before the first wrong one no difference is seen; the wrong step is not looked at alone, "
        "so that this does not tell whether the index rises with the error or after it.",
        (
            *_curves("lock_in_index", "lock-in index"),
            *_curves("n_tokens", "tokens")[:2],
            _before(
                "steps before the first error only, same problem and cut", "lock_in_index", "within"
            ),
            _before("the same, other problem, matched by length", "lock_in_index", "matched"),
        ),
        "Teacher-forced maps of the model's own samples at temperature 1. Before the error, 59% of "
        "the pairs of one problem are the same text and differ by exactly 0.",
    ),
    Claim(
        "Deep decay marks errors",
        "Yes for whole traces, a little; no before the error. The index of error traces is higher "
        "under both readings of the map, but an error trace has the higher one in 57 to 60 of 100 "
        "pairs only (lock-in: 74 to 77), and among pairs of similar length the interval under "
        "log-odds reaches zero. Before the error, deep layers look at earlier thinking no less.",
        (
            *_curves("decay_index", "decay index"),
            _before(
                "share of deep thinking rows on earlier thinking, before the first error (less "
                "would be decay)",
                "reach",
                "within",
            ),
            _before("the same, other problem, matched by length", "reach", "matched"),
        ),
        "Solutions have one summary of one sentence, so that there is little room for decay. There "
        "is no summary before the first error, so that the control is another quantity.",
    ),
    Claim(
        "OEB helps",
        "No. At the paper's strength as many answers are corrected as are broken, and a bridge of "
        "keys drawn by lot does the same; wrong answers move towards format errors, as they do "
        "under smoothing. Twice the strength does harm, if less than as much mass on keys by lot. "
        "Where a wrong answer goes wrong, the right token does gain on the written one, already "
        "at the paper's strength. How much of that runs through the bridge is open: the same mass "
        "taken from the current part and given to template tokens raises the mean about as much, "
        "and against keys by lot the bridge gains an amount whose interval reaches zero.",
        (
            _accuracy("accuracy, OEB − none, in points", "oeb"),
            _placebo("OEB − bridge by lot", "oeb", "oeb-bridge"),
            _placebo("OEB − smoothing of the same rows", "oeb", "oeb-smooth"),
            _change("answers that end in a format error, OEB − none, in points", "oeb"),
            _change("the same under smoothing", "oeb-smooth", control=True),
            _accuracy("accuracy, tau_max 0.3 − none", "oeb-tau-0.3"),
            _accuracy("tau_max 0.6 − none", "oeb-tau-0.6"),
            Line(
                "tau_max 0.3 − as much mass on keys by lot",
                "mediation/answers_placebos",
                {"condition": "oeb-strong", "reference": "oeb-strong-random"},
                100,
                "control",
            ),
            _path("log-odds of the right token at the error, tau_max 0.15, nats", "oeb"),
            _margin("the same, tau_max 0.3", "bridge total"),
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
            _margin(
                "tau_max 0.3 − as much mass on keys by lot",
                "bridge against keys by lot",
                control=True,
            ),
        ),
        "Greedy answers. Effects of more than about 1.5 points either way can be ruled out here at "
        "the paper's strength. The log-odds start at −4.1 nats, so that few choices change.",
    ),
    Claim(
        "SMI helps",
        "No. At the paper's strength 7 of 1,000 answers change from right to wrong or back, so "
        "that this says little beyond alpha being small for this model. Stronger injection does "
        "nothing and then perhaps harm, momentum in random directions does the same as the real "
        "one, and where answers go wrong the right token loses a little.",
        (
            _accuracy("accuracy, SMI − none, in points", "smi"),
            _placebo("SMI − random boundaries", "smi", "smi-boundaries"),
            _placebo("SMI − random directions of equal norm", "smi", "smi-direction"),
            _accuracy("alpha 0.5 − none", "smi-alpha-0.5"),
            _accuracy("alpha 1 − none", "smi-alpha-1"),
            _path("log-odds of the right token at the error, alpha 0.06, nats", "smi"),
            _margin("the same, alpha 0.5", "momentum total"),
            _margin(
                "alpha 0.5 − random directions", "momentum against random directions", control=True
            ),
        ),
        "As for OEB. The path through the summary cannot show at the error, which comes before it; "
        "on the loss of the gold summary it is in `mediation/summary`.",
    ),
    Claim(
        "Both together help more",
        "No. Accuracy does not change and the interaction is zero within 0.8 points; wrong answers "
        "move towards format errors, as under OEB.",
        (
            _accuracy("accuracy, both − none, in points", "both"),
            Line("both − OEB − SMI + none", "ablation/contrasts", {"contrast": "interaction"}, 100),
            _change("answers that end in a format error, both − none", "both"),
        ),
        "As for OEB.",
    ),
    Claim(
        "Quarter bands are best",
        "Not shown: no choice of layers helps. SMI in the two lowest layers and one of two lots of "
        "layers cost a point or two.",
        (
            _accuracy("quarter (the paper's choice) − none, in points", "both"),
            _accuracy("third − none", "both-third"),
            _accuracy("half − none", "both-half"),
            _accuracy("OEB in layers found by change points − none", "both-automatic"),
            _accuracy("SMI in layers 0 and 1 − none", "smi-window-0"),
            _accuracy("random layers, first lot − none", "both-random-0", control=True),
            _accuracy("random layers, second lot − none", "both-random-1", control=True),
        ),
        "A model of eight layers: a quarter is two. The change points name shallow layers 0 to 2 "
        "and no deep ones, so that the automatic choice has no SMI.",
    ),
    Claim(
        "Propagation errors are repaired more than conceptual ones",
        "Not shown, and not quite testable here: this task has no conceptual errors. Errors of "
        "flow (premise, order, recall, summary) are corrected about as often as arithmetic and "
        "format errors, within intervals of several points.",
        (
            _flow("rate corrected, flow − local, OEB, in points", "oeb"),
            _flow("the same, both", "both"),
            _flow("bridge by lot", "oeb-bridge", control=True),
            _flow("smoothing", "oeb-smooth", control=True),
        ),
        "First errors of greedy answers; arithmetic errors are few, most local ones are of format.",
    ),
    Claim(
        "Worth 1.35 times the compute",
        "No gain to set against a cost. A vote of eight answers gains seven to nine points for "
        "eight times the tokens, with StepFlow or without; a vote of two loses; at equal votes "
        "StepFlow changes nothing measurable. Longer answers gain nothing, since answers end by "
        "themselves. What decoding with StepFlow costs is in "
        "`benchmarks/results/smollm2-135m-decoding.md`.",
        (
            _way(
                "StepFlow − none, greedy", "both", question="same way", method="greedy", limit=384
            ),
            _way("StepFlow − none, one sample", "both", question="same way", method="sample"),
            _vote(2),
            _vote(4),
            _vote(8),
            _way("vote of 2 − greedy, no StepFlow", "baseline vote-2"),
            _way("vote of 4 − greedy, no StepFlow", "baseline vote-4"),
            _way("vote of 8 − greedy, no StepFlow", "baseline vote-8"),
            _way("vote of 8 with StepFlow − greedy without", "both vote-8"),
        ),
        f"In {PERCENT}. Tokens are evidence of cost here; operations leave out the few that the "
        "edits add, and processor times were not taken under control.",
    ),
    Claim(
        "Planted lock-in causes errors",
        "Forced mass on the current step breaks answers, in shallow layers and more in deep ones. "
        "The first errors that appear are of premises and layout (shallow) and of premises and "
        "order (deep), not of arithmetic (`mediation/injection_kinds`). It is a coarse "
        "intervention: as much mass on keys by lot in the shallow layers leaves next to no answer "
        "right, and at a mass of 0.8 so does lock-in.",
        (
            _planted(
                "shallow layers, half of the mass on the current step − none", "lock-in-shallow-0.5"
            ),
            _planted("deep layers, the same", "lock-in-deep-0.5"),
            _planted("shallow layers, a mass of 0.8", "lock-in-shallow-0.8"),
            _planted("shallow layers, half on keys by lot", "random-shallow-0.5", control=True),
            _planted("shallow layers, 0.8 on keys by lot", "random-shallow-0.8", control=True),
        ),
        f"In {PERCENT}. Far larger than what differs between traces; keys by lot take as much mass "
        "and move it further. Deep layers have no such control.",
    ),
    Claim(
        "A few heads carry the repair",
        "A few heads, in the band and above it, move the prediction at the error; answers get "
        "worse all the same. Heads picked on one half of the problems raise the right token on the "
        "other half, where heads by lot do not, and more than the bottom quarter does. The loss of "
        "the gold solutions rises with it, the log-odds stay far below zero, and written answers "
        "are broken as readily as they are corrected: these heads matter for the choice, and the "
        "bridge in them may do little more than flatten it.",
        (
            _steered("log-odds at the error, bridge in the bottom quarter, nats", "band", "margin"),
            _steered("in the best head of the other half", "top-1", "margin"),
            _steered("in its best 4 heads", "top-4", "margin"),
            _steered("in 4 heads by lot", "random-4", "margin", control=True),
            _steered("gold loss, bottom quarter, millinats per token", "band", "loss"),
            _steered("best 4 heads", "top-4", "loss"),
            _steered("4 heads by lot", "random-4", "loss", control=True),
            _steered_answers("accuracy, bottom quarter − none, in points", "band"),
            _steered_answers("best 2 heads − none", "top-2"),
            _steered_answers("best 8 heads − none", "top-8"),
            _steered_answers("8 heads by lot − none", "random-8", control=True),
        ),
        "At tau_max 0.3, twice the paper's strength, at which effects can be told apart. Heads by "
        "lot are one lot for each half of the problems, and move less mass than the best ones.",
    ),
    Claim(
        "The map foretells what a cut edge does",
        "Yes, and which reading is best depends on the question. Where attention from one step to "
        "another is cut, the paper's objective, pooled by mass, orders the effects on that step's "
        "predictions better than attention, log-odds and the known step graph do. When the "
        "highest edges are cut together, or alone left, log-odds and attention order them about "
        "as well as the measured effects, and the paper's objective worse. For the answer, the "
        "map of the answer's own loss is best, and none is good.",
        (
            *_cuts(),
            _faithful(
                "rank correlation with the KL of a cut: known step graph",
                "rho_kl",
                control=True,
                method="gold",
            ),
            _faithful(
                "rank correlation with the effect on the answer: map of the answer's loss, mean",
                "rho_answer",
                method="saliency",
                objective="answer",
                pool="mean",
            ),
            _faithful(
                "attention, mass", "rho_answer", control=True, method="attention", pool="mass"
            ),
        ),
        "The model's own greedy answers, cuts in all layers and heads; bands of layers are in the "
        "tables. A cut scales up what is left of a row.",
    ),
    Claim(
        "The map finds the steps that a solution builds on",
        "Under log-odds yes, under the paper's objective poorly: a sure prediction has no gradient "
        "of the loss, so that its row is empty beside others. Log-odds are better than attention "
        "averaged over layers and heads, and no better than attention in a layer or head picked "
        "on other problems.",
        (
            _premises(
                "average precision: Step-Saliency, log-odds, all layers and heads",
                "mean",
                method="saliency",
                objective="log_odds",
            ),
            _premises("paper's objective", "mean", method="saliency", objective="next_token"),
            _premises("attention", "mean", control=True, method="attention"),
            _premises(
                "log-odds, best layer", "best_layer", method="saliency", objective="log_odds"
            ),
            _premises("attention, best layer", "best_layer", control=True, method="attention"),
        ),
        "Gold solutions, mass, true premise edges; chance is 0.17. The best layer is picked on the "
        "other half of the problems. Within rows the picture is another: see "
        "what the map foretells.",
    ),
    Claim(
        "A premise travels where StepFlow acts",
        "Not where the bridge acts. A premise sits at its own tokens up to layer 4 and is at the "
        "step that states it from layer 6 on; it goes there directly, most of it in the attention "
        "of layer 5, and not by way of other steps. Of the layers of StepFlow, 0 and 1 carry "
        "nothing of it, cut one at a time, and 6 and 7 a little. A wrong step reaches the answer "
        "in the same way, in layers 3 to 5 and only in part from its own tokens.",
        (
            _patched(
                "recovery, clean premise put in at its tokens, layer 1", "premise", 1, "source"
            ),
            _patched("the same, layer 4", "premise", 4, "source"),
            _patched("layer 5", "premise", 5, "source"),
            _patched("layer 6", "premise", 6, "source"),
            _patched("clean activations of the step that states it, layer 4", "premise", 4, "read"),
            _patched("the same, layer 5", "premise", 5, "read"),
            _patched(
                "tokens of the question in between, layer 5",
                "premise",
                5,
                "between_question",
                control=True,
            ),
            _cut_path(
                "clean run, attention to the premise cut, all layers (1 no harm)", "direct", None
            ),
            _cut_path("the same in layer 0", "direct", 0),
            _cut_path("in layer 1", "direct", 1),
            _cut_path("in layer 5", "direct", 5),
            _cut_path("in layer 6", "direct", 6),
            _cut_path("in layer 7", "direct", 7),
            _cut_path("by way of other steps, all layers", "indirect", None, control=True),
            _patched(
                "wrong step mended at its tokens, layer 2",
                "planted",
                2,
                "source",
            ),
            _patched("the step that gives the answer, layer 4", "planted", 4, "read"),
        ),
        "Recovery: 0 nothing of the clean prediction, 1 all. One number of a premise is changed, "
        "or one step; with all paths cut about a half is left. Pairs of the model's own correct "
        "and wrong answers agree, but are 16.",
    ),
    Claim(
        "The pattern holds in other long texts",
        "In part. In dialogues the maps find the question that is being answered, log-odds more "
        "often than attention or the paper's objective. Lock-in is higher than for a single "
        "question and decay a little, so that levels of the indices compare within one kind of "
        "text only; how steps are cut matters as much (`granularity/summary`).",
        (
            _other_text(
                "relevant question on top: paper's objective", "top", "dialogue", "next_token"
            ),
            _other_text("log-odds", "top", "dialogue", "log_odds"),
            _other_text("attention", "top", "dialogue", "attention", control=True),
            _other_text("lock-in index, single question", "lock_in_index", "single", "next_token"),
            _other_text("lock-in index, dialogue", "lock_in_index", "dialogue", "next_token"),
            _other_text("decay index, single question", "decay_index", "single", "next_token"),
            _other_text("decay index, dialogue", "decay_index", "dialogue", "next_token"),
        ),
        "Seven parts of context, so that chance is 0.14. Gold answers; the model saw no dialogues "
        "in training, and in one the relevant question is also the nearest.",
    ),
    Claim(
        "On a language model, OEB and SMI help",
        "Not shown for answers, and hardly testable: greedy, the model solves 2 of 60 problems, "
        "OEB corrects one and breaks two, SMI changes none. In the loss of worked solutions OEB "
        "shows nothing. SMI lowers the loss of the answer's tokens by 4 millinats of 729; against "
        "random boundaries the gain is at the edge of chance, and with OEB beside it not seen.",
        tuple(
            _on_smollm2(line)
            for line in (
                _accuracy("accuracy, OEB − none, in points", "oeb"),
                _accuracy("SMI − none", "smi"),
                _accuracy("both − none", "both"),
                _placebo("OEB − bridge by lot", "oeb", "oeb-bridge"),
                _placebo("SMI − random boundaries", "smi", "smi-boundaries"),
                _gold_loss("loss of worked solutions, OEB − none, millinats per token", "oeb"),
                _loss_placebo("OEB − bridge by lot", "oeb", "oeb-bridge", "loss"),
                _gold_loss("SMI − none", "smi"),
                _loss_placebo("SMI − random boundaries", "smi", "smi-boundaries", "loss"),
                _gold_loss("both − none", "both"),
                _gold_loss("loss of the answer's tokens, OEB − none", "oeb", "answer_loss"),
                _loss_placebo("OEB − bridge by lot", "oeb", "oeb-bridge", "answer_loss"),
                _gold_loss("SMI − none", "smi", "answer_loss"),
                _loss_placebo("SMI − random boundaries", "smi", "smi-boundaries", "answer_loss"),
                _gold_loss("both − none", "both", "answer_loss"),
            )
        ),
        "Sixty problems, the paper's strengths and quarter bands (8 of 30 layers each). Accuracy: "
        "changes of less than 8 points are below what so few problems can tell.",
        SMOLLM2,
    ),
    Claim(
        "On a language model, the map foretells what a cut edge does",
        "Yes. On SmolLM2 the paper's objective, pooled by mass, orders the effects of single cuts "
        "on the step's predictions best, closely followed by log-odds, both above attention, with "
        "attention above distance; when the highest edges are cut together both do as well as the "
        "measured effects. With twelve problems no difference from attention passes Holm's "
        "correction over all pairs of maps.",
        tuple(map(_on_smollm2, _cuts())),
        "Twelve problems; of a trace four steps that are written and six earlier ones of each, "
        "drawn at random, of its own greedy answers, nearly all of which are wrong. Effects on the "
        "answer could be ordered in four traces only and are left out here.",
        SMOLLM2,
    ),
    Claim(
        "On a language model, a premise travels where StepFlow acts",
        "Not where the bridge acts; once where momentum does. On SmolLM2 a changed number sits at "
        "its own tokens up to layer 22 of 30 and at the step that repeats it from layer 23 on, "
        "brought there directly for the most part, more of it by the attention of layer 23 than "
        "of any other. That is one of the eight layers of SMI (22 to 29); the eight of the bridge "
        "(0 to 7) carry nothing of it, cut one at a time.",
        tuple(
            _on_smollm2(line)
            for line in (
                _patched(
                    "recovery, clean premise put in at its tokens, layer 7", "premise", 7, "source"
                ),
                _patched("the same, layer 17", "premise", 17, "source"),
                _patched("layer 22", "premise", 22, "source"),
                _patched("layer 23", "premise", 23, "source"),
                _patched("layer 24", "premise", 24, "source"),
                _patched(
                    "clean activations of the step that repeats it, layer 22", "premise", 22, "read"
                ),
                _patched("the same, layer 23", "premise", 23, "read"),
                _patched("layer 24", "premise", 24, "read"),
                _cut_path(
                    "clean run, attention to the premise cut, all layers (1 no harm)",
                    "direct",
                    None,
                ),
                *(
                    _cut_path(
                        "the same in layer 0" if layer == 0 else f"in layer {layer}",
                        "direct",
                        layer,
                    )
                    for layer in (0, 7, 17, 23, 24)
                ),
                _cut_path("by way of other steps, all layers", "indirect", None, control=True),
            )
        ),
        "Five problems, a pair each: a number of the question is changed into another, and read "
        "where the model's own answer first repeats it. Recovery: 0 nothing of the clean "
        "prediction, 1 all; with all paths cut about a half is left. SMI moves what the step "
        "before holds and is not about the question's numbers.",
        SMOLLM2,
    ),
)


def render(results: Path) -> str:
    """The page.

    Args:
        results: Folder of results folders.
    """
    read = cache(lambda table: _table(results / f"{table}.parquet"))
    verdicts = [f"{n}. {c.claim}: *{_verdict(c)}*" for n, c in enumerate(CLAIMS, 1)]
    parts = [HEAD, "\n".join(verdicts) + "\n"]
    for number, claim in enumerate(CLAIMS, 1):
        parts.append(f"## {number}. {claim.claim}\n\n{claim.found}\n")
        parts.append("\n".join([*TABLE, *(_row(line, read) for line in claim.lines)]) + "\n")
        parts.append(f"Model: {claim.model}. How far it carries: {claim.carries}\n")
    return "\n".join(parts)


HEAD = """# Findings

What was found with this toolkit for the claims of "Reasoning Fails Where Step Flow Breaks" (ACL
2026; 1 to 8, of which 6 is its only choice and not claimed to be best) and for questions of this
project (9 and after): estimates with 95% intervals over problems and controls beside them. Written
by `python -m analyses.findings` from the tables in this folder. The paper's models (R1-Distill,
GPT-OSS) were not at hand; nothing here says what holds for them.

Terms. *OEB*, the Odds-Equal Bridge, gives attention in shallow layers a minimum on the *bridge*:
the question while thinking, the thinking while summarising (`tau_max`, 0.15 in the paper). *SMI*,
Step Momentum Injection, adds the mean value vector of the previous step at each step's first token
in deep layers (`alpha`, 0.06). *Lock-in index*: share of thinking rows on their own and the last
step beyond a uniform row, shallow layers. *Decay index*: share of summary rows on the thinking,
middle minus deep layers. *By lot*: as many keys, heads or layers, drawn at random. *Smoothing*: the
same attention rows moved as far by a temperature. *Log-odds of the right token at the error*:
log p(right) − log p(written) where the first wrong step of a wrong greedy answer goes wrong. Kinds
of error are told by a grader that knows the step graph
(`step_saliency/models/bundled/reasoner/MODEL_CARD.md`).

p-values: Holm's correction within the family that the analysis declares (a group of conditions, an
outcome, an index); † is a single test.
"""
TABLE = ("| measured | role | estimate | n | p | table |", "|---|---|---:|---:|---:|---|")


def _verdict(claim: Claim) -> str:
    """The first words of what was found, up to a stop or colon."""
    first = re.split(r"[.:] ", claim.found)[0]
    return first[0].lower() + first[1:]


def _table(file: Path) -> pd.DataFrame | None:
    return pd.read_parquet(file) if file.is_file() else None


def _row(line: Line, read: Callable[[str], pd.DataFrame | None]) -> str:
    table = read(line.table)
    if table is None:
        return f"| {line.what} | {line.role} | not run | | | `{line.table}` |"
    row = one_row(table, line.where, name=line.table)
    numbers = [row[name] * line.scale for name in ("estimate", "lower", "upper")]
    estimate = "{:+.3g} [{:+.3g}, {:+.3g}]".format(*(round(x, 4) + 0.0 for x in numbers))
    told = _p_value(row)
    return f"| {line.what} | {line.role} | {estimate} | {row['n']} | {told} | `{line.table}` |"


def _p_value(row: pd.Series) -> str:
    corrected, plain = row.get("p_holm"), row.get("p", row.get("p_value"))
    if corrected is not None and not pd.isna(corrected):
        return f"{corrected:.2g}"
    return "" if plain is None or pd.isna(plain) else f"{plain:.2g} †"


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
