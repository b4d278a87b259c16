"""Edits as values: frozen, changed by replacement, equal to themselves alone; what layers share."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from flows import kept, logits_of, model_of, random_trace, trace_of
from tiny import BACKENDS

import step_saliency as ss
from analyses.instruments.edits import Diverted, LockIn, RegionBridge, SummaryCut
from step_saliency.intervene import BoundEdit, EditContext, StepLabels
from step_saliency.intervene.groups import KeyGroup, key_groups
from step_saliency.intervene.heads import HeadMeans
from step_saliency.intervene.labels import REGION_CODE
from step_saliency.intervene.oeb.masses import group_sums, log_sum
from step_saliency.intervene.once import once_per_labels
from step_saliency.intervene.places import over_all_heads
from step_saliency.segment import Region
from step_saliency.storage.described import described

ROOT = Path(__file__).parents[1]
MEANS = HeadMeans(z=torch.zeros(4, 3, 4, 8), counts=torch.ones(4, dtype=torch.long))
EDITS: dict[str, ss.Edit] = {
    "bridge": ss.OddsEqualBridge([0, 1], tau_max={0: 0.2, 1: 0.1}, heads={0: [1]}),
    "momentum": ss.StepMomentumInjection([2], alpha=0.5, window=3),
    "scale": ss.HeadScale(["L1H2", (0, 1)], {0: 0.5, 1: 0.0}, regions=["thinking"]),
    "mean": ss.HeadMean("L1H0", MEANS, steps=[2]),
    "redirect": ss.HeadRedirect(["L0H3"], to=[2, 3], mass=0.5),
    "values": ss.ValueProjection([1], heads=[0, 1], rank=2),
    "lock-in": LockIn([0], 0.5, keys="random"),
    "region bridge": RegionBridge([0], ["summary"], tau_max=0.5),
    "diverted": Diverted([1], tau_max=0.3),
    "cut": SummaryCut([2]),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_do_not_change(name: str) -> None:
    edit = EDITS[name]
    for field in fields(edit):  # type: ignore[arg-type]
        with pytest.raises(FrozenInstanceError):
            setattr(edit, field.name, getattr(edit, field.name))


@pytest.mark.parametrize("name", EDITS)
def test_replacement_makes_another_with_one_thing_changed(name: str) -> None:
    edit = EDITS[name]
    copy = replace(edit)  # type: ignore[type-var]
    assert copy is not edit
    assert copy != edit, "two of a kind are two edits"
    assert vars(copy) == vars(edit)
    assert described(copy) == described(edit)


def test_replacement_is_checked_and_derives_anew() -> None:
    momentum = ss.StepMomentumInjection([2])
    carried = replace(momentum, space="residual")
    assert (momentum.site, momentum.needs_values, momentum.needs_resid_pre) == ("z", True, True)
    assert (carried.site, carried.needs_values, carried.needs_resid_pre) == (
        "resid_post",
        True,
        False,
    )
    with pytest.raises(ValueError, match="needs space='residual'"):
        replace(momentum, source="resid_post")
    with pytest.raises(ValueError, match=r"tau_max=1\.5"):
        replace(ss.OddsEqualBridge([0]), tau_max=1.5)
    moved = replace(ss.HeadScale("L1H2", 0.5), heads=["L2H0"])
    assert (moved.layers, moved.heads, moved.factor) == ((2,), {2: (0,)}, 0.5)
    flow = ss.StepFlow(ss.OddsEqualBridge([0]), momentum)
    alone = replace(flow, smi=None)
    assert alone.edits == (flow.oeb,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ss.OddsEqualBridge([0], 0.2),  # type: ignore[misc]
        lambda: ss.StepMomentumInjection([0], 0.2),  # type: ignore[misc]
        lambda: ss.HeadScale(["L0H0"], 0.5, ["thinking"]),  # type: ignore[misc]
        lambda: ss.HeadRedirect(["L0H0"], "question", 0.5),  # type: ignore[misc]
        lambda: ss.ValueProjection([0], "question"),  # type: ignore[misc]
        lambda: LockIn([0], 0.5, "random"),  # type: ignore[misc]
    ],
)
def test_options_are_given_by_name(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        make()


def test_settings_of_a_run_describe_an_edit_by_its_options() -> None:
    """As they stand in settings files that were written before edits were frozen."""
    assert described(ss.OddsEqualBridge([0, 1], bridge="random")) == {
        "class": "OddsEqualBridge",
        "bridge": "auto",
        "current": "region",
        "heads": None,
        "layers": [0, 1],
        "placebo": "random",
        "seed": 0,
        "tau_max": 0.15,
    }
    assert described(ss.HeadScale("L1H2", 0.0)) == {
        "class": "HeadScale",
        "factor": 0.0,
        "heads": {"1": [2]},
        "layers": [1],
        "regions": None,
        "steps": None,
    }
    assert described(ss.StepMomentumInjection([3])) == {
        "class": "StepMomentumInjection",
        "alpha": 0.06,
        "bank": None,
        "boundaries": "step",
        "layers": [3],
        "momentum": "step",
        "needs_resid": False,
        "needs_resid_pre": True,
        "needs_values": True,
        "seed": 0,
        "site": "z",
        "source": "value",
        "space": "value",
        "window": None,
    }
    flow = described(ss.StepFlow(ss.OddsEqualBridge([0])))
    assert sorted(flow) == ["class", "edits", "oeb", "smi"]
    assert (flow["edits"], flow["smi"]) == ([flow["oeb"]], None)


def test_binding_makes_a_second_object() -> None:
    flow = ss.StepFlow(ss.OddsEqualBridge([0]), ss.StepMomentumInjection([1]))
    before = [dict(vars(edit)) for edit in flow.edits]
    one, two = (flow.bound_to(random_trace(seed)) for seed in (0, 1))
    assert isinstance(one.oeb, BoundEdit)
    assert one.oeb.edit is two.oeb.edit is flow.oeb  # type: ignore[union-attr]
    assert len(one.oeb.labels) == len(random_trace(0))
    assert len(two.oeb.labels) == len(random_trace(1))  # type: ignore[union-attr]
    assert [vars(edit) for edit in flow.edits] == before
    for unbound in (flow, flow.oeb):
        with pytest.raises(ValueError, match="bound_to"):
            unbound.hooks(model_of("qwen2", BACKENDS[0]))  # type: ignore[union-attr]


@torch.no_grad()
def test_one_edit_at_two_places_acts_and_counts_twice() -> None:
    model = model_of("qwen2", BACKENDS[0])
    tokens = trace_of(model).tokens[None]
    half = ss.HeadScale("L1H2", 0.5)
    with kept(model, "attn.hook_z", layers=[1]) as before:
        logits_of(model, tokens)
    twice = ss.EditGroup([half, half])
    with twice.attached(model) as session, kept(model, "attn.hook_z", layers=[1]) as after:
        logits_of(model, tokens)
    (z,), (edited,) = before.values(), after.values()
    torch.testing.assert_close(edited[:, :, 2], 0.25 * z[:, :, 2])
    frame = session.effects.to_frame()
    assert frame[frame["head"] == 2]["edit"].tolist() == ["HeadScale", "HeadScale#2"]
    assert frame[frame["head"] == 2]["rows_shifted"].tolist() == [tokens.shape[1]] * 2


@torch.no_grad()
def test_a_bridge_of_regions_does_not_switch_off_another() -> None:
    """In one pass both ask for the same groups; the first has none in the thinking."""
    model = model_of("qwen2", BACKENDS[0])
    trace = trace_of(model, "<think>First, 3 and 4. Then we add them to get 7.")
    bridge = ss.OddsEqualBridge([0], tau_max=0.6)
    group = ss.EditGroup([RegionBridge([0], ["summary"], tau_max=0.6), bridge])
    frames = []
    for edit in (bridge, group):
        with edit.attached(model, trace=trace) as session:
            logits_of(model, trace.tokens[None])
        frames.append(session.effects.to_frame())
    assert frames[0]["rows_shifted"].sum() > 0
    assert frames[1]["rows_shifted"].sum() == frames[0]["rows_shifted"].sum()


@torch.no_grad()
def test_a_variant_may_be_a_plain_dataclass() -> None:
    """Compared by its numbers, with a list that cannot be hashed."""

    @dataclass(frozen=True)
    class Quiet(ss.Edit):
        site = "scores"

        layers: Sequence[int]
        amount: float = 2.0

        def apply(self, activation: torch.Tensor, context: EditContext) -> torch.Tensor:
            in_question = context.labels.in_region(Region.QUESTION)
            return activation - self.amount * in_question[:, None, None, :]

    model = model_of("qwen2", BACKENDS[0])
    trace = trace_of(model)
    plain = logits_of(model, trace.tokens[None])
    group = ss.EditGroup([Quiet([0, 1]), Quiet([0, 1])])
    with group.attached(model, trace=trace) as session:
        twice = logits_of(model, trace.tokens[None])
    with Quiet([0, 1], 4.0).attached(model, trace=trace):
        stronger = logits_of(model, trace.tokens[None])
    hooks = Quiet([0, 1], 4.0).bound_to(trace).hooks(model)
    by_hand = model.run_with_hooks(trace.tokens[None], return_type="logits", fwd_hooks=hooks)
    assert session.labels is not None
    assert not torch.equal(plain, twice)
    torch.testing.assert_close(twice, stronger)
    assert torch.equal(by_hand, stronger)


def test_regions_of_labels() -> None:
    labels = StepLabels.from_traces([random_trace(0), random_trace(1)])
    for region in Region:
        assert torch.equal(labels.in_region(region), labels.region == REGION_CODE[region])
    both = labels.in_region(Region.THINKING, "summary")
    assert torch.equal(both, labels.region >= REGION_CODE[Region.THINKING])
    with pytest.raises(ValueError, match="unknown region"):
        labels.in_region("answer")


def test_labels_of_some_positions() -> None:
    labels = StepLabels.from_traces([random_trace(0), random_trace(1)])
    part = labels.up_to(5)
    assert [label.shape[1] for label in part.tensors] == [5, 5, 5]
    assert torch.equal(part.previous, labels.previous[:, :5])
    assert labels.up_to(len(labels)) is labels
    last = labels.each(lambda label: label[1:])
    assert torch.equal(last.step, labels.step[1:])


def test_layers_of_a_pass_share_results_and_passes_do_not() -> None:
    calls: list[tuple[int, str]] = []

    @once_per_labels
    def counted(labels: StepLabels, n: int, *, name: str = "a") -> list[int]:
        calls.append((n, name))
        return [n]

    one, two = (StepLabels.from_traces([random_trace(0)]) for _ in range(2))
    first = counted(one, 1)
    assert counted(one, 1) is first
    assert counted(one, 2) is not first
    assert counted(one, 1, name="b") is not first
    assert counted(two, 1) is not first
    assert calls == [(1, "a"), (2, "a"), (1, "b"), (1, "a")]
    groups = key_groups(one, n_queries=3)
    assert key_groups(one, n_queries=3) is groups
    assert key_groups(two, n_queries=3) is not groups
    gone = ref(groups)
    del one, groups
    assert gone() is None, "what is shared goes with the labels"


def test_sums_of_groups_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.6]]).log()
    groups = torch.tensor(
        [[KeyGroup.OTHER, KeyGroup.CURRENT, KeyGroup.CURRENT, KeyGroup.BRIDGE, 0]]
    )
    visible = torch.tensor([[True, True, True, True, False]])
    sums = group_sums(scores, visible, groups, torch.tensor([0.7]).log())
    expected = [torch.tensor([mass]) for mass in (0.4, 0.5, 0.8)]
    for log_mass, mass in zip(sums[:3], expected, strict=True):
        torch.testing.assert_close(log_mass.exp(), mass)
    assert (sums.n_bridge.tolist(), sums.n_current.tolist()) == ([1], [2])
    nothing = log_sum(scores, torch.zeros(1, 5, dtype=torch.bool))
    assert nothing.isfinite().all()
    assert nothing.item() < -1e30


def test_counts_of_some_heads() -> None:
    counts = torch.tensor([3.0, 5.0])
    assert over_all_heads(counts, [2, 0], 4).tolist() == [5.0, 0.0, 3.0, 0.0]
    assert over_all_heads(counts, None, 2) is counts


def test_interventions_load_neither_maps_nor_pictures() -> None:
    code = (
        "import sys, step_saliency.intervene\n"
        "rooms = ('diagnosis', 'saliency', 'plotting', 'decoding')\n"
        "heavy = {'matplotlib', *(f'step_saliency.{room}' for room in rooms)}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
