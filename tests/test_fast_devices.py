"""Layers on other devices than the tokens: what the fast loop holds of a batch goes to each.

The second device is the meta device, which has shapes and no numbers, but takes no operand of
another device either.
"""

from typing import Any

import pytest
import torch
from flows import random_trace
from tiny import tiny_tokenizer, tiny_transformers
from torch import nn

from step_saliency.intervene.context import EditContext
from step_saliency.intervene.edit import Edit
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.fast import FastSession
from step_saliency.intervene.fast.groups import SharedGroups
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.once import labels_on

QUESTION = "What is 3 and 4?"
HERE, ELSEWHERE = torch.device("cpu"), torch.device("meta")


class Seen(Edit):
    """Changes nothing, and keeps what it was shown."""

    def __init__(self, site: Any) -> None:
        self.layers, self.site = (0, 1), site
        self.needs_resid_pre = site == "z"
        self.contexts: list[EditContext] = []

    def apply(self, activation: torch.Tensor, context: EditContext) -> torch.Tensor:
        self.contexts.append(context)
        return activation


def session_of(edit: Edit) -> FastSession:
    """A session that has read two prompts and then a token of each."""
    tokenizer = tiny_tokenizer()
    session = FastSession(tiny_transformers("qwen2"), [edit], tokenizer)
    question, thought = (tokenizer(text)["input_ids"] for text in (QUESTION, "<think>\nFirst, "))
    prompt = [*question, *thought]
    session.expect(ExpectedRows(questions=[QUESTION] * 2, n_prompt=len(question), format="think"))
    passes = (torch.tensor([prompt] * 2), 0), (torch.tensor([[50], [60]]), len(prompt))
    for tokens, n_past in passes:
        session.read(tokens, torch.ones_like(tokens, dtype=torch.bool), n_past=n_past)
    return session


def attend(session: FastSession, layer: int, device: torch.device) -> torch.Tensor:
    n_keys = len(session.labels or ())
    key = torch.ones(2, 4, n_keys, 8, device=device)
    query = torch.ones(2, 4, 1, 8, device=device)
    module = nn.Identity()
    module.layer_idx = layer  # type: ignore[assignment]
    return session.attention(module, query, key, key, None, scaling=None)[0]


def test_bridges_act_on_layers_of_several_devices() -> None:
    session = session_of(OddsEqualBridge([0, 1, 2], tau_max=0.5))
    first, second, third = (
        attend(session, layer, device) for layer, device in enumerate([HERE, ELSEWHERE, HERE])
    )
    assert second.device == ELSEWHERE
    assert torch.equal(first, third)
    counted = {layer: sums["rows_seen"].device for (layer, _), sums in session.effects.sums.items()}
    assert counted == {0: HERE, 1: ELSEWHERE, 2: HERE}


def test_groups_are_made_once_for_each_device() -> None:
    labels = StepLabels.from_traces([random_trace(0)])
    newest = [[(int(step), 2, -1)] for step in labels.step[:, -1]]
    shared, edit, n = SharedGroups(labels, newest), OddsEqualBridge([0]), len(labels)
    here, there = (
        shared.of(edit, None, n, torch.float32, device=device) for device in (HERE, ELSEWHERE)
    )
    assert (here.members.device, there.members.device) == (HERE, ELSEWHERE)
    assert shared.of(edit, None, n, torch.float32) is here
    assert shared.of(edit, None, n, torch.float32, device=ELSEWHERE) is there


@pytest.mark.parametrize("site", ["scores", "z", "resid_post"])
def test_edits_see_everything_on_the_device_of_the_layer(site: Any) -> None:
    edit = Seen(site)
    session = session_of(edit)
    for layer, device in enumerate([HERE, ELSEWHERE]):
        before = torch.ones(2, 1, 32)  # as the layer before gives it
        session.see_input(session.layers[layer], before)
        attend(session, layer, device)
        session.edit_resid(session.layers[layer], before.to(device))
    here, there = edit.contexts
    assert here.labels is session.labels
    assert there.labels.step.device == ELSEWHERE
    if site == "z":
        assert there.resid_pre is not None
        assert there.resid_pre.device == ELSEWHERE


def test_layers_of_one_device_share_labels() -> None:
    labels = StepLabels.from_traces([random_trace(0)])
    assert labels_on(labels, labels.step.device) is labels
    assert labels_on(labels, ELSEWHERE) is labels_on(labels, ELSEWHERE)
    assert labels_on(labels, ELSEWHERE).step.device == ELSEWHERE
