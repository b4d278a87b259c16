"""Rows that were written, mapped with the prompt read once, are those of whole maps."""

from typing import Any

import pytest
import torch
from edit_passes import load
from maps import make_trace
from tiny import BACKENDS, random_tokens

import step_saliency as ss
from analyses.instruments.knockout import Prefix
from analyses.instruments.step_maps import READINGS, step_maps
from analyses.instruments.written_maps import written_maps, written_totals
from step_saliency.options import Pool, Rows
from step_saliency.saliency.objectives import NextToken, SequenceLoss
from step_saliency.saliency.pooling import step_layout
from step_saliency.trace import Region, Trace

needs_hooked = pytest.mark.skipif(
    "hooked" not in BACKENDS, reason="TransformerLens has no HookedTransformer here"
)
REGIONS, LENGTHS = "_QQ_TTTSS", (3, 9, 6, 2, 4, 5, 1, 6, 3)


def a_trace() -> Trace:
    steps = make_trace(REGIONS, LENGTHS).steps
    return Trace(tokens=random_tokens(sum(LENGTHS))[0], steps=steps)


@needs_hooked
@pytest.mark.parametrize("rows", ["target", "query"])
@pytest.mark.parametrize("pool", ["mean", "mass"])
@pytest.mark.parametrize("arch", ["qwen2", "llama", "gemma2", "gpt_oss"])
def test_written_rows_are_those_of_whole_maps(arch: Any, pool: Pool, rows: Rows) -> None:
    model, trace = load(arch, n_layers=3, dtype=torch.float64), a_trace()
    some = step_maps(model, trace, pool=pool, rows=rows, written_only=True)
    whole = step_maps(model, trace, pool=pool, rows=rows)
    written = trace.region_steps(Region.THINKING, Region.SUMMARY)
    others = [i for i in range(len(trace.steps)) if i not in written]
    assert list(some) == list(READINGS)
    for reading, saliency in some.items():
        expected = whole[reading]
        assert saliency.maps.shape == expected.maps.shape
        torch.testing.assert_close(
            saliency.maps[:, written].double(),
            expected.maps[:, written].double(),
            rtol=1e-5 if arch == "gpt_oss" else 1e-9,
            atol=1e-12,
        )
        assert not saliency.maps[:, others].any()
        assert saliency.maps[:, written].abs().sum() > 0
        assert saliency.windows == expected.windows
        assert saliency.objective == expected.objective
    before, after = ss.diagnose(whole["loss"]), ss.diagnose(some["loss"])
    assert after.lock_in_index == pytest.approx(before.lock_in_index, rel=1e-5)
    assert after.decay_index == pytest.approx(before.decay_index, rel=1e-5, abs=1e-9)


@needs_hooked
def test_the_prompt_is_read_once_and_the_model_is_left_as_it_was() -> None:
    model, trace = load("qwen2", n_layers=3), a_trace()
    before = model(trace.tokens[None])
    seen: list[int] = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: seen.append(x.shape[1]))]):
        step_maps(model, trace, written_only=True)
    prompt = sum(LENGTHS[:4]) - 1
    assert seen == [prompt, len(trace) - prompt], "all readings share two passes"
    assert torch.equal(model(trace.tokens[None]), before)
    assert not any(point.has_hooks() for point in model.hook_dict.values())


def test_what_cannot_go_on_from_a_cache_is_mapped_whole() -> None:
    trace, options = a_trace(), {"pool": "mean", "rows": "target"}
    bridge = load("qwen2", n_layers=3, backend="bridge")
    assert written_maps(bridge, trace, {}, **options) is None
    maps = step_maps(bridge, trace, ["loss"], rows="target", written_only=True)
    torch.testing.assert_close(
        maps["loss"].maps, ss.step_saliency(bridge, trace, rows="target").maps
    )
    model = load("qwen2", n_layers=3)
    unasked = Trace(tokens=trace.tokens[:9], steps=make_trace("TS", (5, 4)).steps)
    assert written_maps(model, unasked, {}, **options) is None, "nothing stands before"


@needs_hooked
def test_an_objective_of_many_positions_is_refused() -> None:
    model, trace = load("qwen2", n_layers=3), a_trace()
    layout = step_layout(trace.step_ids)
    prefix = Prefix(model, trace.tokens[:5])
    objectives = {"next_token": NextToken(), "sequence": SequenceLoss()}
    with pytest.raises(ValueError, match=r"objectives \['sequence'\] read several positions"):
        written_totals(model, trace, prefix, objectives, layout)
