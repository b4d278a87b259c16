"""Loss on the responses, in training and on problems that training never sees."""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from step_saliency.tasks.graph import Split
from training.data import (
    IGNORED,
    Batch,
    DrawConversations,
    collate,
    draw_conversations,
    encode,
)

CAUSAL: dict[str, None] = {"full_attention": None}
"""No mask to be made: padding stands on the right, where no token of a problem looks."""


def response_loss(model: Qwen2ForCausalLM, batch: Batch, *, bfloat16: bool) -> Float[Tensor, ""]:
    """Mean cross-entropy over the tokens of the responses."""
    device = next(model.parameters()).device
    learnt = batch.labels[:, 1:] != IGNORED
    targets = batch.labels[:, 1:][learnt].to(device, non_blocking=True)
    rows, columns = (index.to(device, non_blocking=True) for index in learnt.nonzero(as_tuple=True))
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        ids = batch.ids.to(device, non_blocking=True)
        hidden = model.model(
            input_ids=ids, attention_mask=CAUSAL, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[rows, columns])
    return F.cross_entropy(logits.float(), targets)


@torch.no_grad()
def held_out(
    model: Qwen2ForCausalLM, batches: Sequence[Batch], *, bfloat16: bool
) -> tuple[float, float]:
    """Loss on test problems, and the share of them whose every response token is the most likely.

    The share is what greedy decoding would write out exactly as the canonical solution.
    """
    loss, exact, n = 0.0, 0, 0
    device = next(model.parameters()).device
    for batch in batches:
        ids, labels = batch.ids.to(device), batch.labels.to(device)[:, 1:]
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        row_loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        right = (logits.argmax(-1) == labels) | (labels == IGNORED)
        loss += row_loss.item() * len(ids)
        exact += int(right.all(-1).sum())
        n += len(ids)
    return loss / n, exact / n


def held_out_batches(
    tokenizer: PreTrainedTokenizerFast,
    n: int = 128,
    *,
    draw: DrawConversations = draw_conversations,
    split: Split = "test",
) -> list[Batch]:
    """Problems of the training mixture that training never sees."""
    conversations = draw(random.Random("held-out"), n, pool=10**6, split=split)
    examples = sorted(encode(tokenizer, conversations), key=lambda example: len(example.ids))
    return [collate(examples[i : i + 32], tokenizer.pad_token_id) for i in range(0, n, 32)]
