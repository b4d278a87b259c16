"""Doses of the bridge in some heads from masses, and passes that go on from a prompt read once."""

from typing import Any

import pytest
import torch
from edit_passes import a_trace, full_pass, load
from tiny import BACKENDS

from analyses.head_steering.doses import BridgeDoses, kl_of
from analyses.head_steering.steering import bridge_on
from analyses.instruments.resumed import Resumed, resumed_effects, resumed_logits
from step_saliency.intervene.heads import HeadScale
from step_saliency.intervene.matching import effects_on
from step_saliency.intervene.values import ValueProjection

MODELS = [*(("qwen2", backend) for backend in BACKENDS), ("gpt_oss", "bridge")]
TRACES = [a_trace(seed=seed) for seed in range(3)]
TAU = 0.5


@pytest.mark.parametrize(("arch", "backend"), MODELS)
def test_the_predicted_dose_of_a_head_alone_is_the_measured_one(arch: str, backend: str) -> None:
    model = load(arch, backend)
    doses = BridgeDoses(model, TRACES)
    n_layers, n_heads = doses.shape
    assert (n_layers, n_heads) == (3, 4)
    moved = 0
    for place in [(layer, head) for layer in range(n_layers) for head in range(n_heads)]:
        edit = bridge_on([place], tau_max=TAU)
        expected = kl_of(effects_on(model, edit, TRACES))
        assert doses.predicted([place], TAU) == pytest.approx(expected, rel=1e-5, abs=1e-8)
        moved += expected > 0.01
    assert moved >= 4
    heads = [(1, 0), (1, 3)]
    together = kl_of(effects_on(model, bridge_on(heads, tau_max=TAU), TRACES))
    assert doses.predicted(heads, TAU) == pytest.approx(together, rel=1e-5), "of one layer"


def test_matched_doses_are_within_the_tolerance_whatever_the_layers() -> None:
    model = load("qwen2")
    traces = [a_trace(seed=seed) for seed in range(8)]
    doses, heads = BridgeDoses(model, traces), [(0, 2), (1, 1), (2, 3)]
    kl = kl_of(effects_on(model, bridge_on(heads, tau_max=0.2), traces))
    dosed = doses.matched(heads, kl, tau_max=0.1, tolerance=0.01)
    assert dosed is not None
    whole = kl_of(effects_on(model, dosed.edit, traces))
    assert dosed.kl == pytest.approx(whole, rel=1e-5)
    assert whole == pytest.approx(kl, rel=0.01)
    assert dosed.edit.tau_in(0, 3) == pytest.approx(0.2, rel=0.05)
    assert doses.matched(heads, 50.0, tau_max=TAU) is None


@pytest.mark.parametrize(("arch", "backend"), MODELS)
def test_passes_from_the_prompt_on_are_those_of_whole_passes(arch: str, backend: str) -> None:
    model, trace = load(arch, backend), TRACES[0]
    read = Resumed.of(model, trace)
    first = trace.steps[2].start
    assert read.start == (0 if arch == "gpt_oss" else first - 1)
    edit = bridge_on([(0, 0), (0, 2), (2, 1)], tau_max=TAU)
    whole, plain = full_pass(model, trace, edit), full_pass(model, trace)
    for position in (first - 1, first, len(trace) - 1):
        row = resumed_logits(model, read, position, edit)
        assert torch.allclose(row, whole[position], atol=2e-4)
        assert torch.allclose(resumed_logits(model, read, position), plain[position], atol=2e-4)
    assert not torch.allclose(whole[-1], plain[-1], atol=1e-2)
    effects = resumed_effects(model, edit, [read, Resumed.of(model, TRACES[1])]).to_frame()
    expected = effects_on(model, edit, TRACES[:2]).to_frame()
    assert effects["rows_seen"].tolist() == expected["rows_seen"].tolist()
    assert effects["kl"].to_numpy() == pytest.approx(
        expected["kl"].to_numpy(), abs=1e-5, nan_ok=True
    )


def test_edits_that_act_on_the_prompt_or_read_it_are_refused() -> None:
    model, trace = load("qwen2"), TRACES[0]
    read = Resumed.of(model, trace)
    with pytest.raises(ValueError, match="HeadScale may act on the prompt"):
        resumed_logits(model, read, len(trace) - 1, HeadScale([(0, 1)], 0.0))
    edit: Any = ValueProjection([0], basis="previous", rank=2)
    with (
        edit.attached(model, trace=trace) as session,
        pytest.raises(ValueError, match="reads values or residuals of earlier positions"),
    ):
        session.resume(trace.tokens[None, :3])
    with pytest.raises(ValueError, match="is empty"):
        BridgeDoses(model, [])
