"""Where does what went wrong sit? Activations of one trace put into another, step by layer.

Two token sequences of one problem, equal in length and in where their steps lie, lead to different
predictions at one position: token ``correct`` in the clean one, ``wrong`` in the corrupted one.

    premise  a number of the question is changed into another of as many tokens; the response is
             the same up to where that number is first written again, and there it is read
    planted  the gold solution of the bundled task and the same with one wrong step, read where the
             answers in the summaries first differ
    own      a correct and an error trace that the model wrote itself, read likewise

With d the logit of ``correct`` minus that of ``wrong`` at the position that is read,

    recovery = (d_patched - d_corrupted) / (d_clean - d_corrupted)

``direction="denoising"`` puts clean activations into the corrupted run (what suffices to bring the
clean prediction back: 0 nothing, 1 all), ``"noising"`` corrupted ones into the clean run (what is
needed: 1 no harm, 0 all lost). Sites are ``resid_post``, ``attn_out``, ``mlp_out``, and ``z`` for
single heads; what is patched is all tokens of one step in one layer. By `role`, steps are

    source   where the tokens first differ: the premise, or the wrong step
    read     the step that the prediction belongs to
    between_question, between_thinking   steps in between
    before   steps before the source, which cannot differ
    all      every position together

Paths: ``site="edge"`` cuts attention in the clean run (`analyses.instruments.knockout`) from the
tokens of the read step to the source (``direct``, in all layers and in each), from all other later
tokens to the source (``indirect``), or from both (``both``). A forgotten premise is one whose
direct and indirect paths carry nothing. A cut takes content away and puts none in its place: with
all of it gone, d is near 0 and recovery near -d_corrupted / (d_clean - d_corrupted), which is about
a half where the two runs are equally sure of their tokens.

When it misleads: recovery is not additive over steps or layers, and can leave [0, 1] where patched
parts work against others. A step's content may have moved on to later tokens, so that patching it
alone does little in upper layers. Pairs whose gap d_clean - d_corrupted is small are noise; they
are dropped and counted (`dropped`).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analyses.instruments.knockout import Cut, Prefix, cut_logits, logits_at
from analyses.material.problems import (
    Item,
    SourceSettings,
    item_trace,
    item_traces,
    item_units,
)
from analyses.running.runner import Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.models.facts import n_heads, n_layers
from step_saliency.models.hooking import NamedHook, live_names
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Region, Step, Trace

Kind = Literal["premise", "planted", "own"]
Direction = Literal["denoising", "noising"]
Site = Literal["resid_post", "attn_out", "mlp_out", "z"]
Role = Literal["source", "read", "between_question", "between_thinking", "before", "all"]

HOOKS: Mapping[Site, str] = {
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "z": "attn.hook_z",
}
STEP_SITES: tuple[Site, ...] = ("resid_post", "attn_out", "mlp_out")
KEYS = ["kind", "direction", "site", "layer", "head", "role"]


@dataclass(frozen=True, eq=False)
class Pair:
    """Two sequences that differ in what they lead to.

    Attributes:
        problem: Name of the problem.
        kind: How the pair was made.
        clean: Trace up to and including the position that is read.
        corrupted: Trace of the same length and steps.
        correct: Token that the clean one leads to.
        wrong: Token that the corrupted one leads to.
        read_step: Step that the predicted token belongs to.
    """

    problem: str
    kind: Kind
    clean: Trace
    corrupted: Trace
    correct: int
    wrong: int
    read_step: int

    @property
    def position(self) -> int:
        """Where the prediction is made: the last position."""
        return len(self.clean.tokens) - 1

    @property
    def source_step(self) -> int:
        """Step in which the tokens first differ."""
        differ = (self.clean.tokens != self.corrupted.tokens).nonzero()
        return int(self.clean.step_ids[differ[0, 0]])

    def role(self, step: int) -> Role | None:
        """Part that a step of the sequences plays; None for template."""
        region = self.clean.steps[step].region
        if step == self.source_step:
            return "source"
        if region == Region.TEMPLATE:
            return None
        if step == self.read_step:
            return "read"
        if step < self.source_step:
            return "before"
        return "between_question" if region == Region.QUESTION else "between_thinking"


def make_pair(
    clean: Trace, corrupted: Trace, position: int, *, kind: Kind, problem: str
) -> Pair | None:
    """Cut two traces after a position, if they match there.

    Args:
        clean: Trace whose token after the position is the correct one.
        corrupted: Trace whose token there is the wrong one.
        position: Where the prediction is read.
        kind: How the pair was made.
        problem: Name of the problem.

    Returns:
        None if the steps do not lie alike up to there, no token before differs, or the next
        tokens do not differ.
    """
    end = position + 2
    if min(len(clean.tokens), len(corrupted.tokens)) < end:
        return None
    ids = clean.step_ids[:end], corrupted.step_ids[:end]
    differ = clean.tokens[:end] != corrupted.tokens[:end]
    if not torch.equal(*ids) or not differ[-1] or not differ[:-1].any():
        return None
    return Pair(
        problem=problem,
        kind=kind,
        clean=_until(clean, position),
        corrupted=_until(corrupted, position),
        correct=int(clean.tokens[position + 1]),
        wrong=int(corrupted.tokens[position + 1]),
        read_step=int(clean.step_ids[position + 1]),
    )


def _until(trace: Trace, position: int) -> Trace:
    """The trace up to and including a position."""
    steps = [
        Step(step.start, min(step.stop, position + 1), step.region, step.text)
        for step in trace.steps
        if step.start <= position
    ]
    return Trace(trace.tokens[: position + 1], tuple(steps), id=trace.id, meta=trace.meta)


def premise_pair(tokenizer: Any, trace: Trace, *, seed: int) -> Pair | None:
    """Change one number of the question that the response writes again.

    Args:
        tokenizer: The model's.
        trace: A response of any model to any question.
        seed: Of the number and of its replacement.

    Returns:
        None if no number stands once in the question and again in the response.
    """
    rng = np.random.default_rng([seed, 7])
    texts = [tokenizer.decode([token]) for token in trace.tokens.tolist()]
    asked = _numbers(trace, texts, (Region.QUESTION,))
    written = _numbers(trace, texts, (Region.THINKING, Region.SUMMARY))
    values = [tuple(texts[start:stop]) for start, stop in asked]
    eligible = [
        (start, stop, value)
        for (start, stop), value in zip(asked, values, strict=True)
        if values.count(value) == 1 and value in [tuple(texts[a:b]) for a, b in written]
    ]
    if not eligible:
        return None
    start, _, value = eligible[int(rng.integers(len(eligible)))]
    changed = _other_number(tokenizer, value, rng)
    if changed is None:
        return None
    place = next(a for a, b in written if tuple(texts[a:b]) == value)
    corrupted = trace.tokens.clone()
    for first in (start, place):
        corrupted[first : first + len(changed)] = torch.tensor(changed)
    other = Trace(corrupted, trace.steps, id=trace.id, meta=trace.meta)
    name = str(trace.meta.get("problem") or trace.id)
    return make_pair(trace, other, place - 1, kind="premise", problem=name)


def _numbers(
    trace: Trace, texts: Sequence[str], regions: Sequence[Region]
) -> list[tuple[int, int]]:
    """Longest runs of tokens that are digits, within steps of some regions."""
    found = []
    for step in trace.steps:
        if step.region in regions:
            marks = "".join("d" if t.isdecimal() else "." for t in texts[step.start : step.stop])
            runs = re.finditer("d+", marks)
            found += [(step.start + run.start(), step.start + run.end()) for run in runs]
    return found


def _other_number(
    tokenizer: Any, digits: Sequence[str], rng: np.random.Generator
) -> list[int] | None:
    """Tokens of a number that looks alike and differs from its first token on."""
    for _ in range(20):
        other = [
            str(
                rng.integers(10 ** (len(d) - 1), 10 ** len(d))
                if len(d) > 1
                else rng.integers(1, 10)
            )
            for d in digits
        ]
        ids = tokenizer("".join(other), add_special_tokens=False)["input_ids"]
        texts = [tokenizer.decode([token]) for token in ids]
        if texts == other and other[0] != digits[0]:
            return [int(token) for token in ids]
    return None


def answer_pair(clean: Trace, corrupted: Trace, *, kind: Kind, problem: str) -> Pair | None:
    """Read two traces where their summaries first differ; None if they do not match there."""
    if len(clean.tokens) != len(corrupted.tokens):
        return None
    in_summary = torch.tensor(
        [clean.regions[step] == Region.SUMMARY for step in clean.step_ids.tolist()]
    )
    differ = ((clean.tokens != corrupted.tokens) & in_summary).nonzero()
    if not len(differ):
        return None
    return make_pair(clean, corrupted, int(differ[0, 0]) - 1, kind=kind, problem=problem)


@dataclass(frozen=True)
class Patch:
    """One activation that is replaced.

    Attributes:
        site: Which.
        layer: Where.
        positions: At which positions.
        role: What they are.
        step: Step that they are, if they are one.
        head: One head (of ``z``), or all.
    """

    site: Site
    layer: int
    positions: tuple[int, ...]
    role: Role
    step: int | None = None
    head: int | None = None


def replace_rows(
    activation: Float[Tensor, "batch pos *rest"],
    source: Float[Tensor, "1 pos *rest"],
    chosen: Bool[Tensor, "batch pos *#rest"],
) -> Float[Tensor, "batch pos *rest"]:
    """The activation with the chosen entries of the source."""
    return torch.where(chosen, source, activation)


def patch_hooks(
    patches: Sequence[Patch], sources: Mapping[str, Tensor], n_tokens: int
) -> list[NamedHook]:
    """Hooks under which row b of a batch runs with ``patches[b]``.

    A pass over the last positions alone (see `analyses.instruments.knockout.Prefix`) is patched
    there.
    """
    rows_of: dict[str, list[int]] = {}
    for row, patch in enumerate(patches):
        rows_of.setdefault(_name(patch.site, patch.layer), []).append(row)
    return [
        (name, _patch_hook([patches[i] for i in rows], rows, sources[name], len(patches), n_tokens))
        for name, rows in rows_of.items()
    ]


def _name(site: Site, layer: int) -> str:
    return f"blocks.{layer}.{HOOKS[site]}"


def _patch_hook(
    patches: Sequence[Patch],
    rows: Sequence[int],
    source: Float[Tensor, "1 pos *rest"],
    n_rows: int,
    n_tokens: int,
) -> Callable[..., Tensor]:
    heads = source.shape[2] if patches[0].site == "z" else 1
    chosen = torch.zeros(n_rows, n_tokens, heads, dtype=torch.bool)
    for row, patch in zip(rows, patches, strict=True):
        head = slice(None) if patch.head is None else slice(patch.head, patch.head + 1)
        chosen[row, list(patch.positions), head] = True
    mask = (chosen.unsqueeze(-1) if source.ndim == 4 else chosen).to(source.device)

    def put_in(activation: Float[Tensor, "batch pos *rest"], hook: Any) -> Tensor:
        last = slice(-activation.shape[1], None)
        return replace_rows(activation, source[:, last], mask[:, last])

    return put_in


@torch.no_grad()
def record(model: Any, tokens: Int[Tensor, "pos"], names: Sequence[str]) -> dict[str, Tensor]:
    """Activations of one sequence at some hook points.

    Raises:
        ValueError: a hook point that the model lacks or never reaches.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def look(activation: Tensor, hook: Any) -> None:
            kept[name] = activation.detach().clone()

        return look

    hooks = [(name, keep(name)) for name in live_names(model, names)]
    logits_at(model, tokens[None], [len(tokens) - 1], hooks)
    return kept


def logit_diff(logits: Float[Tensor, "vocab"], pair: Pair) -> float:
    """Logit of the correct minus logit of the wrong token."""
    both = logits[[pair.correct, pair.wrong]].detach().double()
    return float(both[0] - both[1])


def patched_logit_diffs(
    model: Any, pair: Pair, patches: Sequence[Patch], *, direction: Direction, batch_size: int = 16
) -> list[float]:
    """Logit difference under each patch."""
    into, source = pair.corrupted.tokens, pair.clean.tokens
    if direction == "noising":
        into, source = source, into
    found = []
    prefix = Prefix.shared(model, into[: pair.clean.steps[pair.source_step].start])
    ordered = sorted(range(len(patches)), key=lambda i: (patches[i].site, patches[i].layer))
    by_site = {site: [i for i in ordered if patches[i].site == site] for site in get_args(Site)}
    for chosen in by_site.values():
        names = list(dict.fromkeys(_name(patches[i].site, patches[i].layer) for i in chosen))
        sources = record(model, source, names) if names else {}
        for start in range(0, len(chosen), batch_size):
            batch = chosen[start : start + batch_size]
            hooks = patch_hooks([patches[i] for i in batch], sources, len(into))
            tokens = into.expand(len(batch), -1)
            logits = logits_at(model, tokens, [pair.position], hooks, prefix=prefix)[:, 0]
            found += [(i, logit_diff(row, pair)) for i, row in zip(batch, logits, strict=True)]
    return [value for _, value in sorted(found)]


def step_patches(pair: Pair, layers: Sequence[int], sites: Sequence[Site]) -> list[Patch]:
    """One patch per step from the source on, layer and site; and all positions together."""
    length = len(pair.clean.tokens)
    found = []
    for site in sites:
        for layer in layers:
            found.append(Patch(site, layer, tuple(range(length)), "all"))
            for number, step in enumerate(pair.clean.steps):
                role = pair.role(number)
                if role is not None and number >= pair.source_step:
                    span = tuple(range(step.start, step.stop))
                    found.append(Patch(site, layer, span, role, number))
    return found


def head_patches(pair: Pair, layers: Sequence[int], heads: int) -> list[Patch]:
    """Single heads, at the source, at the read step, and everywhere."""
    spans: dict[Role, tuple[int, ...]] = {"all": tuple(range(len(pair.clean.tokens)))}
    for role, number in (("source", pair.source_step), ("read", pair.read_step)):
        spans[role] = _tokens_of(pair, number)  # type: ignore[index]
    return [
        Patch("z", layer, span, role, head=head)
        for layer in layers
        for head in range(heads)
        for role, span in spans.items()
        if span
    ]


def _tokens_of(pair: Pair, number: int) -> tuple[int, ...]:
    if number >= len(pair.clean.steps):
        return ()
    step = pair.clean.steps[number]
    return tuple(range(step.start, step.stop))


def path_cuts(pair: Pair, layers: Sequence[int]) -> list[tuple[str, int | None, Cut]]:
    """(path, layer, cut) of the edges from the source to the read step and to what lies between."""
    keys = _tokens_of(pair, pair.source_step)
    after = range(keys[-1] + 1, len(pair.clean.tokens))
    read = set(_tokens_of(pair, pair.read_step)) | {pair.position}
    direct = tuple(position for position in after if position in read)
    indirect = tuple(position for position in after if position not in read)
    found: list[tuple[str, int | None, Cut]] = [
        ("direct", None, Cut(direct, keys)),
        ("indirect", None, Cut(indirect, keys)),
        ("both", None, Cut(tuple(after), keys)),
    ]
    return found + [("direct", layer, Cut(direct, keys, (layer,))) for layer in layers]


def patch_pair(
    model: Any,
    pair: Pair,
    *,
    sites: Sequence[Site] = STEP_SITES,
    directions: Sequence[Direction] = ("denoising", "noising"),
    heads: bool = True,
    paths: bool = True,
    layers: Sequence[int] | None = None,
    min_gap: float = 1.0,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Every patch of one pair.

    Args:
        model: HookedTransformer or TransformerBridge.
        pair: Two matching sequences.
        sites: What is patched by step and layer.
        directions: Which run is patched.
        heads: Patch single heads as well.
        paths: Cut the paths from the source to what is read as well.
        layers: Layers; all by default.
        min_gap: Smallest d_clean - d_corrupted, in logits, at which a pair counts.
        batch_size: Patches computed together.

    Returns:
        One row per direction, site, layer, head and step (``role``): ``recovery, logit_diff``, with
        ``problem, kind, clean, corrupted`` (logit differences) and ``dropped``; a pair whose gap is
        too small is one row, with ``dropped`` set and nothing else.
    """
    chosen = range(n_layers(model)) if layers is None else layers
    clean, corrupted = (
        logit_diff(logits_at(model, trace.tokens[None], [pair.position])[0, 0], pair)
        for trace in (pair.clean, pair.corrupted)
    )
    facts: dict[str, Any] = {
        "problem": pair.problem,
        "kind": pair.kind,
        "clean": clean,
        "corrupted": corrupted,
    }
    if clean - corrupted < min_gap:
        return _typed(pd.DataFrame([{**facts, "dropped": True}]))
    patches = step_patches(pair, chosen, sites)
    patches += head_patches(pair, chosen, n_heads(model)) if heads else []
    rows: list[dict[str, Any]] = []
    for direction in directions:
        found = patched_logit_diffs(
            model, pair, patches, direction=direction, batch_size=batch_size
        )
        for patch, value in zip(patches, found, strict=True):
            names = ("site", "layer", "head", "role", "step")
            row = {name: getattr(patch, name) for name in names}
            rows.append({**row, "direction": direction, "logit_diff": value})
    if paths:
        rows += _cut_paths(model, pair, chosen, batch_size)
    table = pd.DataFrame(rows).assign(**facts, dropped=False)
    table["recovery"] = (table["logit_diff"] - corrupted) / (clean - corrupted)
    return _typed(table)


def _cut_paths(
    model: Any, pair: Pair, layers: Sequence[int], batch_size: int
) -> list[dict[str, Any]]:
    cuts = path_cuts(pair, layers)
    logits = cut_logits(
        model,
        pair.clean.tokens,
        [cut for _, _, cut in cuts],
        [pair.position],
        batch_size=batch_size,
    )
    shared = {"site": "edge", "direction": "noising"}
    return [
        {**shared, "role": path, "layer": layer, "logit_diff": logit_diff(row[0], pair)}
        for (path, layer, _), row in zip(cuts, logits, strict=True)
    ]


COLUMNS = {
    "problem": "string",
    "kind": "string",
    "direction": "string",
    "site": "string",
    "layer": "Int64",
    "head": "Int64",
    "role": "string",
    "step": "Int64",
    "recovery": "float64",
    "logit_diff": "float64",
    "clean": "float64",
    "corrupted": "float64",
    "dropped": "bool",
}


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    return table.reindex(columns=list(COLUMNS)).astype(COLUMNS)


def patching(model: Any, pairs: Sequence[Pair], **options: Any) -> pd.DataFrame:
    """`patch_pair` of several pairs, one table."""
    frames = [patch_pair(model, pair, **options) for pair in pairs]
    return pd.concat(frames, ignore_index=True) if frames else _typed(pd.DataFrame())


def by_role(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over the steps of a role, per pair: what intervals are taken of."""
    keys = ["problem", *KEYS, "dropped"]
    names = ["recovery", "clean", "corrupted"]
    return values.groupby(keys, sort=False, dropna=False)[names].mean().reset_index()


def summarise(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Mean recovery over problems with intervals: `KEYS`, ``estimate, lower, upper, n``."""
    kept = values[~values["dropped"]]
    return mean_table(kept, "recovery", by=KEYS, seed=seed).drop(columns="p")


def pair_table(values: pd.DataFrame) -> pd.DataFrame:
    """One row a pair: its logit differences, and whether it was dropped."""
    names = ["problem", "kind", "clean", "corrupted", "dropped"]
    return values[names].drop_duplicates(["problem", "kind"]).reset_index(drop=True)


@dataclass(frozen=True, kw_only=True)
class PatchingSettings(SourceSettings):
    """Problems, and what is patched."""

    kinds: tuple[Kind, ...] = ("premise",)
    samples: int = option(16, "own traces of a problem")
    sample_temperature: float = option(1.0, "of own traces")
    heads: bool = True
    min_gap: float = option(1.0, "in logits, of pairs that count")
    batch_size: int = 16


def item_pairs(model: Any, item: Item, settings: PatchingSettings, *, seed: int) -> Iterator[Pair]:
    """Pairs of one problem, of the kinds asked for; as many as there are."""
    for kind in settings.kinds:
        pair = None
        if kind == "premise":
            pair = premise_pair(model.tokenizer, item_trace(model, item, settings), seed=seed)
        elif kind == "planted":
            pair = planted_pair(model.tokenizer, item, seed=seed)
        else:
            temperature = settings.sample_temperature
            sampled = replace(settings, responses="own", temperature=temperature)
            traces = item_traces(model, item, sampled, n=settings.samples)
            pair = own_pair(traces, problem=item.id)
        if pair is not None:
            yield pair


def planted_pair(tokenizer: Any, item: Item, *, seed: int) -> Pair | None:
    """The gold solution against one with a wrong value that leaves every length as it was."""
    if item.problem is None:
        raise ValueError("planted errors need problems of the bundled task (--data task)")
    clean = item.problem.trace(tokenizer, split_question=True)
    for attempt in range(20):
        for kind in ("recall", "arithmetic"):
            try:
                broken = item.problem.corrupt(kind, seed=seed + attempt)
            except ValueError:  # no step of this problem computes anything
                continue
            other = item.problem.trace(tokenizer, broken.response, split_question=True)
            pair = answer_pair(clean, other, kind="planted", problem=item.id)
            if pair is not None:
                return pair
    return None


def own_pair(traces: Sequence[Trace], *, problem: str) -> Pair | None:
    """The first correct and error trace that match."""
    for clean in traces:
        for other in traces:
            if clean.meta.get("is_correct") and other.meta.get("is_correct") is False:
                pair = answer_pair(clean, other, kind="own", problem=problem)
                if pair is not None:
                    return pair
    return None


def run_unit(model: Any, unit: Unit, settings: PatchingSettings) -> pd.DataFrame:
    """One problem."""
    pairs = list(item_pairs(model, unit.payload, settings, seed=unit.seed % 2**31))
    values = patching(
        model,
        pairs,
        heads=settings.heads,
        min_gap=settings.min_gap,
        batch_size=settings.batch_size,
    )
    return by_role(values) if len(values) else pd.DataFrame()


def tables(values: pd.DataFrame, settings: PatchingSettings) -> dict[str, pd.DataFrame]:
    """Recovery by role, and the pairs."""
    return {"summary": summarise(values, seed=settings.seed), "pairs": pair_table(values)}


ANALYSIS = Analysis(
    "patching",
    PatchingSettings,
    units=item_units,
    run_unit=run_unit,
    summarise=tables,
    checks=("residual_edits", "head_edits", "score_edits", "cached_decoding"),
    keep_values=False,
)


if __name__ == "__main__":
    main("analyses.patching")
