"""Single heads: scaled, replaced by their mean, redirected to chosen steps; and nothing else."""

import copy
from collections.abc import Callable
from pickle import dumps, loads
from typing import Any

import pytest
import torch
from edit_passes import a_trace, activations, assert_same_in_every_pass, full_pass, load
from scipy.optimize import minimize
from tiny import BACKENDS

from step_saliency.intervene import Edit, EditGroup
from step_saliency.intervene.heads import (
    HeadMean,
    HeadRedirect,
    HeadScale,
    mean_head_outputs,
    parse_heads,
)
from step_saliency.intervene.oeb import projected_scores
from step_saliency.intervene.schedule import linear

N_LAYERS = 3
Z = [f"blocks.{layer}.attn.hook_z" for layer in range(N_LAYERS)]
PATTERN = "blocks.1.attn.hook_pattern"
TRACE = a_trace()
REGIONS = torch.tensor([["template", "question", "thinking", "summary"].index(s.region)
                        for s in TRACE.steps for _ in range(len(s))])  # fmt: skip
STEPS = TRACE.step_ids


@pytest.mark.parametrize("backend", BACKENDS)
def test_scaling_touches_one_head_and_what_comes_after(backend: str) -> None:
    model = load("qwen2", backend)
    edit = HeadScale(["L1H2"], 0.25, regions=["thinking"], steps=[2, 3, 8])
    before, after = activations(model, TRACE, Z), activations(model, TRACE, Z, edit)
    assert torch.equal(after[Z[0]], before[Z[0]])
    queries = (REGIONS == 2) & ((STEPS == 2) | (STEPS == 3))
    expected = before[Z[1]].clone()
    expected[:, queries, 2] *= 0.25
    assert torch.equal(after[Z[1]], expected)
    assert not torch.equal(after[Z[2]], before[Z[2]])
    assert torch.equal(activations(model, TRACE, Z)[Z[2]], before[Z[2]]), "left as it was"


@pytest.mark.parametrize("backend", BACKENDS)
def test_factor_one_and_no_queries_change_no_bit(backend: str) -> None:
    model = load("qwen2", backend)
    plain = full_pass(model, TRACE)
    for edit in (
        HeadScale([(1, 2), (2, 0)], 1.0),
        HeadScale(["L1H2"], 0.0, steps=[99]),
        HeadScale(["L0H0"], linear(1.0, 0.0)),
        HeadRedirect(["L1H2"], to=[2], mass=0.0),
        HeadRedirect(["L1H2"], to=[99]),
    ):
        assert torch.equal(full_pass(model, TRACE, edit), plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ablation_is_the_head_taken_out_of_the_output_projection(backend: str) -> None:
    model = load("gpt2-like", backend)
    ablated = full_pass(model, TRACE, HeadScale("L1H2", 0.0))

    def zero(z: torch.Tensor, hook: Any) -> torch.Tensor:
        return z * (torch.arange(z.shape[2]) != 2)[:, None]

    tokens = TRACE.tokens[None]
    by_hand = model.run_with_hooks(tokens, fwd_hooks=[(Z[1], zero)], return_type="logits")[0]
    assert torch.allclose(ablated, by_hand, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_means_and_their_use_by_hand(backend: str) -> None:
    model = load("qwen2", backend)
    others = [a_trace(seed=1), a_trace(regions="_QTS", lengths=(1, 3, 7, 2), seed=2)]
    found = [activations(model, trace, Z) for trace in others]
    codes = [torch.tensor([["template", "question", "thinking", "summary"].index(s.region)
                           for s in t.steps for _ in range(len(s))]) for t in others]  # fmt: skip
    means = mean_head_outputs(model, others, progress=False)
    overall = mean_head_outputs(model, others, by="all", progress=False)
    assert repr(overall).startswith("HeadMeans(3 layers, 4 heads, tokens: ")
    assert repr(overall).endswith(f"{sum(len(other) for other in others)} all)")
    assert " thinking, " in repr(means)
    before = activations(model, TRACE, Z)[Z[1]]
    after = activations(model, TRACE, Z, HeadMean(["L1H0", "L1H3"], means))[Z[1]]
    everywhere = activations(model, TRACE, Z, HeadMean(["L1H0"], overall))[Z[1]]
    for region in range(4):
        rows = [z[Z[1]][0][code == region] for z, code in zip(found, codes, strict=True)]
        truth = torch.cat(rows).mean(0)
        assert means.counts[region] == sum(map(len, rows))
        for head in (0, 3):
            here = after[0, REGIONS.eq(region), head]
            assert torch.allclose(here, truth[head].expand_as(here), atol=1e-6)
    assert torch.equal(after[:, :, 1:3], before[:, :, 1:3])
    grand = torch.cat([z[Z[1]][0] for z in found]).mean(0)[0]
    assert torch.allclose(everywhere[0, :, 0], grand.expand(len(TRACE), -1), atol=1e-6)


def test_a_region_without_reference_is_refused_where_it_is_needed() -> None:
    model = load("qwen2")
    unfinished = a_trace(regions="_QT", lengths=(2, 3, 4))
    means = mean_head_outputs(model, [unfinished], progress=False)
    with pytest.raises(ValueError, match="no summary to take a mean over"):
        full_pass(model, TRACE, HeadMean(["L1H0"], means))
    full_pass(model, TRACE, HeadMean(["L1H0"], means, regions=["thinking"]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["qwen2", "gpt_oss"])
def test_redirected_rows_have_their_mass_and_keep_their_odds(arch: str, backend: str) -> None:
    """gpt_oss has learned sinks; layer 1 of it sees all keys."""
    model = load(arch, backend)
    edit = HeadRedirect(["L1H2"], to=[3, 4], mass=0.6, regions=["summary"])
    before, after = (activations(model, TRACE, [PATTERN], e)[PATTERN][0] for e in (None, edit))
    rows, chosen = REGIONS == 3, (STEPS == 3) | (STEPS == 4)
    others = [0, 1, 3]
    assert torch.equal(after[others], before[others])
    assert torch.equal(after[2, ~rows], before[2, ~rows])
    p, q = before[2, rows].double(), after[2, rows].double()
    sink = 1 - p.sum(-1)
    assert (sink.max() > 1e-3) == (arch == "gpt_oss")
    low = p[:, chosen].sum(-1) < 0.6
    assert low.any()
    feasible = low & (sink < 0.4)
    assert torch.allclose(q[feasible][:, chosen].sum(-1), torch.tensor(0.6).double(), atol=1e-6)
    assert torch.allclose(q.sum(-1), p.sum(-1), atol=1e-6), "the sink keeps its own"
    assert torch.equal(after[2, rows][~low], before[2, rows][~low])
    for group in (chosen, ~chosen):
        seen = p[feasible][:, group], q[feasible][:, group]
        odds = [x / x.sum(-1, keepdim=True) for x in seen]
        assert torch.allclose(*odds, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_of_the_mass_and_whom_it_is_taken_from(backend: str) -> None:
    model = load("qwen2", backend)
    all_of_it = activations(model, TRACE, [PATTERN], HeadRedirect(["L1H2"], to="question"))
    sees = torch.arange(len(TRACE)) >= 2
    mass = all_of_it[PATTERN][0, 2][:, REGIONS == 1].sum(-1)
    assert torch.allclose(mass[sees], torch.tensor(1.0), atol=1e-6)
    before = activations(model, TRACE, [PATTERN])[PATTERN][0, 2]
    edit = HeadRedirect(["L1H2"], to="previous", take_from="step", mass=1.0, steps=[5])
    after = activations(model, TRACE, [PATTERN], edit)[PATTERN][0, 2]
    rows = STEPS == 5
    assert (after[rows][:, STEPS == 5] == 0).all(), "all that the step has is taken"
    given, kept = STEPS == 4, (STEPS != 4) & (STEPS != 5)
    both = before[rows][:, (STEPS == 4) | (STEPS == 5)].sum(-1)
    assert torch.allclose(after[rows][:, given].sum(-1), both, atol=1e-6)
    assert torch.allclose(after[rows][:, kept], before[rows][:, kept], atol=1e-6)


def test_redirection_is_the_least_divergence_for_its_mass() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([2, 1, 1, 2, 1, 0])
    scores = torch.randn(6, dtype=torch.float64, generator=generator) - 2 * (groups == 2)
    edited, _ = projected_scores(scores[None, None], groups[None, None], mass=0.6)
    p, q = scores.softmax(-1).numpy(), edited[0, 0].softmax(-1).numpy()
    bridge, other = groups.numpy() == 2, groups.numpy() == 0
    found = minimize(
        lambda x: (x * _log(x / p)).sum(),
        x0=p,
        bounds=[(1e-9, 1)] * 6,
        constraints=[
            {"type": "eq", "fun": lambda x: x[bridge].sum() - 0.6},
            {"type": "eq", "fun": lambda x: x[other].sum() - p[other].sum()},
            {"type": "eq", "fun": lambda x: x.sum() - 1},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert (q * _log(q / p)).sum() == pytest.approx(found.fun, abs=1e-6)
    assert q[bridge].sum() == pytest.approx(0.6, abs=1e-9)


def _log(x: Any) -> Any:
    return torch.as_tensor(x).log().numpy()


def edits(model: Any) -> list[Edit]:
    means = mean_head_outputs(model, [a_trace(seed=5)], progress=False)
    return [
        HeadScale(["L1H2", (0, 1)], -0.5, regions=["summary", "thinking"]),
        HeadMean(["L1H2", "L2H0"], means, regions=["thinking", "summary"]),
        HeadRedirect(["L1H2", "L1H0"], to="previous", mass=0.5, take_from="region"),
        HeadRedirect(["L0H3"], to="thinking", mass=linear(0.9, 0.1)),
        HeadRedirect(["L1H2"], to=[2, 3], steps=[4, 5, 7], mass=1.0),
    ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", range(5))
def test_cached_equals_full_and_batch_equals_single(number: int, backend: str) -> None:
    model = load("qwen2", backend)
    traces = [TRACE, a_trace(lengths=(1, 8, 3, 4, 4, 2, 1, 6, 2), seed=3)]
    assert_same_in_every_pass(model, traces, edits(model)[number])


@pytest.mark.parametrize("backend", BACKENDS)
def test_effects_count_rows_of_the_head(backend: str) -> None:
    model = load("qwen2", backend)
    tokens = TRACE.tokens[None]
    with HeadScale(["L1H2"], 0.0, regions=["summary"]).attached(model, trace=TRACE) as session:
        model(tokens, attention_mask=torch.ones_like(tokens))
    table = session.effects.to_frame().set_index(["layer", "head"])
    assert table["rows_shifted"].to_dict() == {(1, 0): 0, (1, 1): 0, (1, 2): 7, (1, 3): 0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_variant_in_twenty_lines(backend: str) -> None:
    """Sharper attention in chosen layers while summarising, as it would stand in a notebook."""
    model = load("qwen2", backend)

    class Sharpen(Edit):
        site = "scores"

        def __init__(self, layers: list[int], temperature: float) -> None:
            self.layers, self.temperature = tuple(layers), temperature

        def apply(self, activation: torch.Tensor, context: Any) -> torch.Tensor:
            summary = context.labels.region[:, -context.n_queries :] == 3
            visible = activation > torch.finfo(activation.dtype).min / 4
            sharper = torch.where(visible, activation / self.temperature, activation)
            return torch.where(summary[:, None, :, None], sharper, activation)

    edit = Sharpen([1], temperature=0.5)
    before, after = (activations(model, TRACE, [PATTERN], e)[PATTERN][0] for e in (None, edit))
    rows = REGIONS == 3
    squared = before[:, rows] ** 2
    assert torch.allclose(after[:, rows], squared / squared.sum(-1, keepdim=True), atol=1e-5)
    assert torch.equal(after[:, ~rows], before[:, ~rows])
    assert_same_in_every_pass(model, [TRACE], edit)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda e: loads(dumps(e))])
@pytest.mark.parametrize(
    "edit",
    [
        HeadScale(["L1H2", "L0H1"], 0.25, regions=["thinking"]),
        HeadRedirect("L1H2", to="question", mass=0.5),
        EditGroup([HeadScale(["L1H2"], 0.0)]),
    ],
)
def test_edits_of_heads_are_copied_and_pickled(edit: Any, again: Callable[[Any], Any]) -> None:
    """Workers of another process get them so."""
    twin = again(edit)
    assert twin is not edit
    assert repr(twin) == repr(edit)
    of_heads = twin.edits[0] if isinstance(twin, EditGroup) else twin
    with pytest.raises(TypeError):
        of_heads.heads[1] = (0,)


def test_names_of_heads() -> None:
    assert parse_heads(["L3H5", (1, 0), "l1h2"]) == {1: (0, 2), 3: (5,)}
    assert parse_heads("L3H5") == {3: (5,)}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: HeadScale([], 0.0), "must name heads"),
        (lambda: HeadScale(["L1H2", (1, 2)], 0.0), "each once"),
        (lambda: HeadScale(["3.5"], 0.0), "write 'L3H5'"),
        (lambda: HeadScale(["L1H2"], {0: 1.0}), r"no number for layers \[1\]"),
        (lambda: HeadScale(["L1H2"], 0.0, regions=[]), "regions"),
        (lambda: HeadScale(["L1H2"], 0.0, regions=["answer"]), "unknown region 'answer'"),
        (lambda: HeadScale(["L1H2"], 0.0, regions="thinking"), "a list of regions"),
        (lambda: HeadScale(["L1H2"], 0.0, steps=[-1]), "0 or above"),
        (lambda: HeadRedirect(["L1H2"], to="answer"), "to='answer'"),
        (lambda: HeadRedirect(["L1H2"], to=[]), "must name steps"),
        (lambda: HeadRedirect(["L1H2"], to=[1], mass=1.5), "mass=1.5"),
        (lambda: HeadRedirect(["L1H2"], to=[1], take_from="bos"), "take_from='bos'"),
        (lambda: mean_head_outputs(load("qwen2"), [], progress=False), "is empty"),
        (lambda: HeadScale(["L1H9"], 0.0).attached(load("qwen2")), "no .'L1H9'."),
        (lambda: HeadScale(["L7H0"], 0.0).attached(load("qwen2")), r"layers \[7\]"),
    ],
)
def test_bad_options(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
