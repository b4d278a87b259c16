"""Keys outside a sliding window do not exist for an edit: loops over rows that know the window.

A layer is edited alone, so that it reads the same with and without the edit; its attention rows
before (p) and after (q) are compared with loops that hide keys by the window's rule, not by what
the model masks.
"""

import math
from functools import cache
from typing import Any

import pytest
import torch
from edit_passes import a_trace, activations, assert_same_in_every_pass
from nights import mostly_at_night
from stepflow_reference import BRIDGE, CURRENT, Steps, loop_bridge, loop_groups
from tiny import BACKENDS, WINDOW, tiny_config, tiny_tokenizer, tiny_transformers
from transformers import AutoModelForCausalLM, Qwen2Config

import step_saliency as ss
from step_saliency.intervene import Effects, OddsEqualBridge, StepFlow, StepMomentumInjection
from step_saliency.intervene.choices import BRIDGE_PLACEBOS
from step_saliency.intervene.groups import KeyGroup, key_groups
from step_saliency.intervene.hashing import HASH_RANGE, hashed
from step_saliency.intervene.labels import StepLabels
from step_saliency.models.convert import from_transformers

ARCHS = ("gpt_oss", "gemma2", "gemma3", "mistral", "qwen2")
LAYERS = (0, 1)
"""The first slides in every one of these; in some, the second sees all."""
TAU = 0.4
TRACES = [a_trace(), a_trace(lengths=(1, 4, 3, 4, 7, 2, 1, 6, 4), seed=3)]


def windowed_qwen2() -> Any:
    plain = tiny_transformers("qwen2")
    config = Qwen2Config(
        **{
            **tiny_config("qwen2").to_dict(),
            "use_sliding_window": True,
            "max_window_layers": 0,
            "sliding_window": WINDOW,
            "layer_types": None,
        }
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.load_state_dict(plain.state_dict())
    assert model.config.layer_types == ["sliding_attention"] * 3
    return model.eval()


@cache
def windowed(arch: str, backend: str) -> Any:
    """A small model whose window is far shorter than the traces."""
    inner = windowed_qwen2() if arch == "qwen2" else tiny_transformers(arch)  # type: ignore[arg-type]
    try:
        return from_transformers(inner, tiny_tokenizer(), backend=backend, name=f"tiny-{arch}")
    except ValueError as error:
        if backend == "hooked":
            pytest.skip(f"no HookedTransformer of {arch}: {error}")
        raise


def window_of(arch: str, layer: int) -> int | None:
    return None if arch in ("gpt_oss", "gemma2", "gemma3") and layer % 2 else WINDOW


def rows_of(model: Any, trace: ss.Trace, layer: int, edit: Any = None) -> torch.Tensor:
    """Attention rows, ``head query key``."""
    name = f"blocks.{layer}.attn.hook_pattern"
    return activations(model, trace, [name], edit)[name][0].double()


def expected_row(row: torch.Tensor, groups: list[int], hidden: int, tau: float) -> torch.Tensor:
    """One row after the bridge, by the loops; its first keys are hidden."""
    scores = [-math.inf] * hidden + [math.log(x) for x in row[hidden : len(groups)].tolist()]
    left = 1 - float(row.sum())
    sink = math.log(left) if left > 1e-6 else None
    edited = loop_bridge(scores, groups, tau, sink=sink)
    return torch.tensor([math.exp(score) for score in edited]).double()


def drawn_at_random(trace: ss.Trace, query: int, groups: list[int], hidden: int, seed: int) -> list:
    """As many keys of bridge and current part as the bridge has, by their hashes."""
    pool = [k for k in range(hidden, query + 1) if groups[k] in (BRIDGE, CURRENT)]
    n_bridge = sum(groups[k] == BRIDGE for k in pool)
    number = {k: int(hashed(seed, torch.tensor(query), torch.tensor(k))) for k in pool}
    drawn = set(sorted(pool, key=number.__getitem__)[:n_bridge])
    return [BRIDGE if k in drawn else CURRENT if k in pool else 0 for k in range(query + 1)]


def drawn_side_by_side(
    trace: ss.Trace, query: int, groups: list[int], hidden: int, seed: int
) -> list:
    """As many keys of bridge and current part as the bridge has, one after the other."""
    pool = [k for k in range(hidden, query + 1) if groups[k] in (BRIDGE, CURRENT)]
    n_bridge = sum(groups[k] == BRIDGE for k in pool)
    place = (int(hashed(seed, trace.step_ids[query])) + 0.5) / HASH_RANGE
    start = math.floor(place * (len(pool) - n_bridge + 1))
    drawn = pool[start : start + n_bridge]
    return [BRIDGE if k in drawn else CURRENT if k in pool else 0 for k in range(query + 1)]


DRAWS = {None: None, "random": drawn_at_random, "block": drawn_side_by_side}


def expected(
    arch: str, trace: ss.Trace, plain: torch.Tensor, layer: int, placebo: str | None, seed: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Rows after the edit, and the counters by head, from rows before."""
    steps = Steps(trace.starts, [str(r.value) for r in trace.regions], len(trace))
    window, after = window_of(arch, layer), plain.clone()
    sums = {name: torch.zeros(len(plain)).double() for name in ("seen", "shifted", "kl", "tv")}
    for query in range(len(trace)):
        hidden = 0 if window is None else max(0, query + 1 - window)
        assert not plain[:, query, :hidden].any()
        assert (plain[:, query, hidden : query + 1] > 0).all()
        groups = [0] * hidden + loop_groups(steps, query)[hidden:]
        sums["seen"] += float(BRIDGE in groups and CURRENT in groups)
        draw = DRAWS[placebo]
        used = groups if draw is None else draw(trace, query, groups, hidden, seed)
        for head in range(len(plain)):
            p = plain[head, query, : query + 1]
            q = expected_row(plain[head, query], used, hidden, TAU)
            after[head, query, : query + 1] = q
            if (q - p).abs().max() > 1e-7:
                ratio = torch.where(q > 0, q / p, 1.0)
                sums["shifted"][head] += 1
                sums["kl"][head] += float((q * ratio.log()).sum())
                sums["tv"][head] += float((q - p).abs().sum() / 2)
    return after, sums


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("placebo", mostly_at_night(DRAWS, None, "block"))
@pytest.mark.parametrize("arch", ARCHS)
def test_bridges_and_doses_are_those_of_the_loops(
    arch: str, placebo: str | None, backend: str
) -> None:
    model, trace = windowed(arch, backend), TRACES[0]
    for layer in LAYERS:
        edit = OddsEqualBridge([layer], tau_max=TAU, placebo=placebo, seed=4)
        plain = rows_of(model, trace, layer)
        edited = rows_of(model, trace, layer, edit)
        after, sums = expected(arch, trace, plain, layer, placebo, seed=4)
        assert (edited - after).abs().max() < 1e-5
        assert sums["shifted"].sum() > 5
        frame = effects_of(model, edit, trace).to_frame()
        assert frame["rows_seen"].tolist() == sums["seen"].tolist()
        assert frame["rows_shifted"].tolist() == sums["shifted"].tolist()
        for name, total in (("kl", "kl"), ("total_variation", "tv")):
            means = sums[total] / sums["shifted"]
            assert (torch.tensor(frame[name].tolist()) - means).abs().max() < 1e-5


def effects_of(model: Any, edit: Any, trace: ss.Trace) -> Effects:
    tokens = trace.tokens[None]
    with torch.no_grad(), edit.attached(model, trace=trace) as session:
        model(tokens, attention_mask=torch.ones_like(tokens))
    return session.effects


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dose", [1.0, 0.3])
@pytest.mark.parametrize("placebo", BRIDGE_PLACEBOS)
@pytest.mark.parametrize("arch", ["gpt_oss"])
def test_placebos_move_the_same_rows_by_the_dose(
    arch: str, placebo: str, dose: float, backend: str
) -> None:
    """Row by row: KL(q || p) is the dose times that of the bridge, unless the row is counted."""
    model, trace = windowed(arch, backend), TRACES[0]
    real = OddsEqualBridge([0], tau_max=TAU)
    fake = OddsEqualBridge([0], tau_max=TAU, placebo=placebo, dose=dose, seed=2)
    p, q, other = (rows_of(model, trace, 0, edit) for edit in (None, real, fake))
    assert torch.equal((q != p).any(-1), (other != p).any(-1))
    moved = (q != p).any(-1)
    reached, target = (kl(x, p)[moved] for x in (other, q))
    assert (other.sum(-1) - p.sum(-1)).abs().max() < 1e-6, "a sink keeps its mass"
    near = (reached - dose * target).abs() < 1e-4 + 1e-3 * dose * target
    frame = effects_of(model, fake, trace).to_frame()
    assert int((~near).sum()) <= int(frame["infeasible"].sum())
    assert near.sum() > 0.3 * len(near)
    mean = (frame["kl"] * frame["rows_shifted"]).sum() / frame["rows_shifted"].sum()
    assert float(mean) == pytest.approx(float(reached.mean()), abs=1e-5)
    mean = (frame["total_variation"] * frame["rows_shifted"]).sum() / frame["rows_shifted"].sum()
    variation = (other - p).abs().sum(-1)[moved].mean() / 2
    assert float(mean) == pytest.approx(float(variation), abs=1e-5)


def kl(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """KL(after || before) of rows whose sums are the same."""
    return torch.where(after > 0, after * (after / before).log(), 0.0).nan_to_num().sum(-1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_permuted_odds_stay_within_the_bridge(backend: str) -> None:
    """Bridge and current part have the masses of the edit; within the bridge places change."""
    model, trace = windowed("gpt_oss", backend), TRACES[0]
    fake = OddsEqualBridge([1], tau_max=TAU, placebo="permuted", seed=2)
    real = OddsEqualBridge([1], tau_max=TAU)
    p, q, other = (rows_of(model, trace, 1, edit) for edit in (None, real, fake))
    groups = key_groups(StepLabels.from_traces([trace]), n_queries=len(trace))
    on_bridge = groups == KeyGroup.BRIDGE
    assert (other - q)[~on_bridge.expand_as(q)].abs().max() < 1e-6
    assert (other - q)[on_bridge.expand_as(q)].abs().max() > 0.01
    sets = [torch.where(on_bridge, x, -1.0).sort(-1).values for x in (other, q)]
    assert torch.allclose(sets[0], sets[1], atol=1e-6)
    assert (kl(other, p) >= kl(q, p) - 1e-6).all(), "the bridge is the projection"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("placebo", mostly_at_night([None, "block", "permuted"], None))
@pytest.mark.parametrize("arch", ["gpt_oss", "gemma3"])
def test_cached_equals_full_where_the_window_is_short(
    arch: str, placebo: str | None, backend: str
) -> None:
    model = windowed(arch, backend)
    dose = None if placebo is None else 1.2
    oeb = OddsEqualBridge([0, 1], tau_max=TAU, placebo=placebo, dose=dose, seed=1)
    flow = StepFlow(oeb=oeb, smi=StepMomentumInjection([2], alpha=0.5))
    assert_same_in_every_pass(model, TRACES, flow)
