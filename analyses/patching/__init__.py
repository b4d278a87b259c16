"""Where does what went wrong sit? Activations of one trace put into another, step by layer.

Two token sequences of one problem, equal in length and in where their steps lie, lead to different
predictions at one position: token ``correct`` in the clean one, ``wrong`` in the corrupted one.

    premise  a number of the question is changed into another of as many tokens; the response is
             the same up to where that number is first written again, and there it is read
    computed a given number of the question is changed, and all that follows from it with it; read
             at the first result of a step that computes: this number stands nowhere before, while
             that of ``premise`` is copied. Of a row of a file: an expression of the response
             (`analyses.patching.expressions`)
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
tokens of the read step to the source (``direct``, in all layers and in each; ``direct up to``, in
all layers up to one), from all other later tokens to the source (``indirect``), or from both
(``both``). A forgotten premise is one whose
direct and indirect paths carry nothing. A cut takes content away and puts none in its place: with
all of it gone, d is near 0 and recovery near -d_corrupted / (d_clean - d_corrupted), which is about
a half where the two runs are equally sure of their tokens.

All of it takes a pass for each direction, site, layer and step, and for each head: of a model of
many layers, ``sites``, ``directions``, ``layers`` and ``layer_stride`` say what is run.

When it misleads: recovery is not additive over steps or layers, and can leave [0, 1] where patched
parts work against others. A step's content may have moved on to later tokens, so that patching it
alone does little in upper layers. Pairs whose gap d_clean - d_corrupted is small are noise; they
are dropped and counted (`dropped`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import pandas as pd

from analyses.instruments.patching import Site
from analyses.material.problems import (
    Item,
    SourceSettings,
    item_trace,
    item_traces,
    item_units,
)
from analyses.patching.expressions import expression_pair
from analyses.patching.pairs import (
    Kind,
    Pair,
    computed_pair,
    own_pair,
    planted_pair,
    premise_pair,
)
from analyses.patching.recovery import (
    KEYS,
    Direction,
    patch_pair,
)
from analyses.patching.targets import STEP_SITES
from analyses.running.runner import Analysis, Unit
from analyses.running.settings import option
from step_saliency.models.facts import n_layers
from step_saliency.stats.problems import mean_table


def by_role(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over the steps of a role, per pair: what intervals are taken of."""
    keys = ["problem", *KEYS, "dropped"]
    names = ["recovery", "clean", "corrupted"]
    return values.groupby(keys, sort=False, dropna=False)[names].mean().reset_index()


def summarise(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Mean recovery over problems with intervals: `KEYS`, ``estimate, lower, upper, n``."""
    counted = values[~values["dropped"]]
    return mean_table(counted, "recovery", by=KEYS, kind="measure", seed=seed).drop(columns="p")


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
    sites: tuple[Site, ...] = option(STEP_SITES, "patched by step and layer", later=True)
    directions: tuple[Direction, ...] = option(
        ("denoising", "noising"), "which run is patched", later=True
    )
    layers: tuple[int, ...] = option((), "all by default", later=True)
    layer_stride: int = option(1, "every so-and-so many of them, from the first", later=True)
    paths: bool = option(True, "paths are not cut", later=True)
    min_gap: float = option(1.0, "in logits, of pairs that count")
    batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_stride < 1:
            raise ValueError(f"layer_stride={self.layer_stride} must be 1 or more layers")

    def layers_of(self, depth: int) -> Sequence[int]:
        """Layers that are patched and cut of a model of some depth.

        Raises:
            ValueError: layers that the model lacks.
        """
        outside = [layer for layer in self.layers if not 0 <= layer < depth]
        if outside:
            raise ValueError(f"layers={outside} are not among the model's, 0 to {depth - 1}")
        return (sorted(self.layers) or range(depth))[:: self.layer_stride]


def item_pairs(model: Any, item: Item, settings: PatchingSettings, *, seed: int) -> Iterator[Pair]:
    """Pairs of one problem, of the kinds asked for; as many as there are."""
    response = cache(partial(item_trace, model, item, settings))
    for kind in settings.kinds:
        pair = None
        if kind == "premise":
            pair = premise_pair(model.tokenizer, response(), seed=seed)
        elif kind == "computed" and item.problem is None:
            pair = expression_pair(model.tokenizer, response(), seed=seed)
        elif kind == "computed":
            pair = computed_pair(model.tokenizer, item, seed=seed)
        elif kind == "planted":
            pair = planted_pair(model.tokenizer, item, seed=seed)
        else:
            temperature = settings.sample_temperature
            sampled = replace(settings, responses="own", temperature=temperature)
            traces = item_traces(model, item, sampled, n=settings.samples)
            pair = own_pair(traces, problem=item.id)
        if pair is not None:
            yield pair


def run_unit(model: Any, unit: Unit, settings: PatchingSettings) -> pd.DataFrame:
    """One problem."""
    layers = settings.layers_of(n_layers(model))
    frames = [
        patch_pair(
            model,
            pair,
            sites=settings.sites,
            directions=settings.directions,
            heads=settings.heads,
            paths=settings.paths,
            layers=layers,
            min_gap=settings.min_gap,
            batch_size=settings.batch_size,
        )
        for pair in item_pairs(model, unit.payload, settings, seed=unit.seed % 2**31)
    ]
    return by_role(pd.concat(frames, ignore_index=True)) if frames else pd.DataFrame()


def tables(values: pd.DataFrame, settings: PatchingSettings) -> dict[str, pd.DataFrame]:
    """Recovery by role, where a pair counts; and the pairs, where there are any."""
    if values.empty:
        return {}
    pairs = {"pairs": pair_table(values)}
    if values["dropped"].all():
        return pairs
    return {"summary": summarise(values, seed=settings.seed), **pairs}


ANALYSIS = Analysis(
    "patching",
    PatchingSettings,
    item_units,
    run_unit,
    tables,
    checks=("residual_edits", "head_edits", "score_edits", "cached_decoding"),
    keep_values=False,
)
