"""StepFlow against the equations written out in loops, and the paper's choice of layers."""

import math
from typing import Any

import pytest
import torch
from flows import kept, logits_of, random_trace
from stepflow_reference import Steps, loop_bridge, loop_groups, loop_injections, loop_mean
from tiny import BACKENDS, Arch, Backend, tiny_model

import step_saliency as ss
from step_saliency.intervene.oeb import visible_keys
from step_saliency.models.facts import sink_logits

POINTS = ("attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_v", "attn.hook_z")
LAYERS = range(4)


def loop_pattern(scores: list[float], sink: float | None) -> list[float]:
    weights = [math.exp(score) for score in scores]
    total = sum(weights) + (0.0 if sink is None else math.exp(sink))
    return [weight / total for weight in weights]


def expected_patterns(
    scores: torch.Tensor, steps: Steps, tau_max: float, sinks: torch.Tensor | None
) -> torch.Tensor:
    """Attention of one layer, head by head, row by row."""
    visible = visible_keys(scores)
    out = torch.zeros(scores.shape, dtype=torch.float64)
    for head in range(scores.shape[0]):
        sink = None if sinks is None else float(sinks[head])
        for query in range(scores.shape[1]):
            row = [
                float(scores[head, query, key]) if visible[head, query, key] else -math.inf
                for key in range(query + 1)
            ]
            shifted = loop_bridge(row, loop_groups(steps, query), tau_max, sink=sink)
            weights = loop_pattern(shifted, sink)
            out[head, query, : query + 1] = torch.tensor(weights, dtype=torch.float64)
    return out


@torch.no_grad()
@pytest.mark.parametrize("space", ["value", "residual"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("arch", "seeds"), [("qwen2", range(10)), ("gpt_oss", range(2)), ("gemma3", range(2))]
)
def test_reproduces_the_equations(arch: Arch, seeds: Any, backend: Backend, space: str) -> None:
    """From the scores, values and residuals that enter an edit, the loops give what leaves it."""
    dtype = torch.float64 if (arch, backend) == ("qwen2", "hooked") else torch.float32
    tolerance = 1e-10 if dtype is torch.float64 else 2e-6
    model = tiny_model(arch, backend=backend, n_layers=4, dtype=dtype)
    flow = ss.StepFlow(
        ss.OddsEqualBridge([0, 1], tau_max=0.4),
        ss.StepMomentumInjection([2, 3], alpha=0.2, space=space),
    )
    resid = "hook_resid_post"
    shifted = 0
    for seed in seeds:
        trace = random_trace(seed)
        steps = Steps(trace.starts, [str(region) for region in trace.regions], len(trace))
        injections = loop_injections(steps)
        with (
            kept(model, *POINTS, resid, layers=LAYERS) as entered,
            flow.attached(model, trace=trace) as session,
            kept(model, *POINTS, resid, layers=LAYERS) as left,
        ):
            logits_of(model, trace.tokens[None])
        shifted += session.effects.to_frame().rows_shifted.sum()
        for layer in (0, 1):
            name = f"blocks.{layer}.attn."
            scores = entered[name + "hook_attn_scores"][0]
            wanted = expected_patterns(scores, steps, 0.4, sink_logits(model, layer))
            found = left[name + "hook_pattern"][0].double()
            torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
        for layer in (2, 3):
            name = f"blocks.{layer}."
            values = entered[name + "attn.hook_v"][0].double()
            at = "attn.hook_z" if space == "value" else resid
            wanted = entered[name + at][0].double()
            w_o = model.blocks[layer].attn.W_O.double()
            for place, keys in injections.items():
                for head in range(4):
                    mean = torch.tensor(loop_mean(values[:, head // 2], keys), dtype=torch.float64)
                    if space == "value":
                        wanted[place, head] += 0.2 * mean
                    else:
                        wanted[place] += 0.2 * (mean @ w_o[head])
            found = left[name + at][0].double()
            torch.testing.assert_close(found, wanted, rtol=0, atol=2 * tolerance)
    assert shifted > 20


def test_the_papers_choice() -> None:
    model = tiny_model("qwen2", n_layers=7)
    flow = ss.StepFlow.for_model(model)
    assert flow.oeb is not None
    assert flow.smi is not None
    assert flow.edits == (flow.oeb, flow.smi)
    assert (flow.oeb.layers, flow.oeb.tau_max) == ((0, 1), 0.15)
    assert (flow.smi.layers, flow.smi.alpha, flow.smi.space) == ((5, 6), 0.06, "value")
    one = ss.StepFlow.for_model(tiny_model("qwen2", n_layers=1))
    assert one.oeb is not None
    assert one.smi is None
    from step_saliency.models.bands import Bands

    other = ss.StepFlow.for_model(model, bands=Bands((2,), (), (3, 4)), tau_max=0.3, alpha=0.1)
    assert [edit.layers for edit in other.edits] == [(2,), (3, 4)]


def test_either_half_may_be_left_out() -> None:
    bridge = ss.OddsEqualBridge([0])
    assert ss.StepFlow(bridge).edits == (bridge,)
    assert ss.StepFlow(smi=ss.StepMomentumInjection([0])).oeb is None
    with pytest.raises(ValueError, match="give one of them"):
        ss.StepFlow()
    bound = ss.StepFlow(bridge).bound_to(random_trace(0))
    assert bound.oeb is not bridge
    assert bound.smi is None
