"""Loss on the responses, in training and on problems that training never sees."""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from training.data import IGNORED, Batch, collate, draw_conversations, encode


def response_loss(model: Qwen2ForCausalLM, batch: Batch, *, bfloat16: bool) -> Float[Tensor, ""]:
    """Mean cross-entropy over the tokens of the responses."""
    device = next(model.parameters()).device
    ids, labels = batch.ids.to(device), batch.labels.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        learnt = labels[:, 1:] != IGNORED
        logits = model.lm_head(hidden[:, :-1][learnt])
    return F.cross_entropy(logits.float(), labels[:, 1:][learnt])


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


def held_out_batches(tokenizer: PreTrainedTokenizerFast, n: int = 128) -> list[Batch]:
    conversations = draw_conversations(random.Random("held-out"), n, pool=10**6, split="test")
    examples = sorted(encode(tokenizer, conversations), key=lambda example: len(example.ids))
    return [collate(examples[i : i + 32], tokenizer.pad_token_id) for i in range(0, n, 32)]
