"""Does the tokenizer go with the model, and its chat template with the tokenizer?"""

import re
from typing import Any

from step_saliency.models.facts import text_config_of
from step_saliency.models.identity import tokenizer_of_origin
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.measure import Measurement, no_fault, not_measured, warned

LEAST_SHARE = 0.9
"""Share of the model's vocabulary that a tokenizer of its own has at least; the rest is padding."""
MARK = re.compile(r"<[|｜][^\s<>]{1,40}[|｜]>|<(?:start|end)_of_turn>")


def own_tokenizer(examination: Examination) -> Measurement:
    """Does every token have a row in the embedding, and is the vocabulary the model's own?"""
    model = examination.model
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return not_measured("the model has no tokenizer; traces are made with one of yours")
    ids = tokenizer.get_vocab()
    vocab = len(model.W_E)  # a bridge's config follows the tokenizer
    faults = [
        *_beyond(tokenizer, ids, vocab),
        *_unlike_loaded(model, tokenizer, ids),
        *_unknown_ends(model, ids),
    ]
    named = f"{len(ids)} tokens for a vocabulary of {vocab}"
    if not faults and len(ids) < LEAST_SHARE * vocab:
        return warned(no_fault([], named), f"{named}; is this tokenizer the model's?")
    return no_fault(faults, named)


def _beyond(tokenizer: Any, ids: dict[str, int], vocab: int) -> list[str]:
    """Tokens without a row in the embedding; those that were added and name no mark do no harm."""
    used = {tokenizer.bos_token, tokenizer.eos_token}
    unused = set(tokenizer.get_added_vocab()) - used
    beyond = sorted(token for token, number in ids.items() if number >= vocab)
    beyond = [token for token in beyond if token not in unused]
    if not beyond:
        return []
    return [f"{len(beyond)} tokens have ids of {vocab} and above, as {beyond[0]!r}"]


def _unlike_loaded(model: Any, tokenizer: Any, ids: dict[str, int]) -> list[str]:
    loaded = tokenizer_of_origin(model)
    if loaded is None or loaded is tokenizer:
        return []
    other = loaded.get_vocab()
    moved = sorted(token for token in ids.keys() & other.keys() if ids[token] != other[token])
    lost = sorted(other.keys() - ids.keys())
    if not moved and not lost:
        return []
    example = moved[0] if moved else lost[0]
    return [
        f"it is not the tokenizer of the checkpoint: {len(moved)} tokens have other ids and "
        f"{len(lost)} are not there, as {example!r}"
    ]


def _unknown_ends(model: Any, ids: dict[str, int]) -> list[str]:
    """End marks of the model's config that the tokenizer lacks."""
    ends = getattr(text_config_of(model), "eos_token_id", None)
    known = set(ids.values())
    numbers = ends if isinstance(ends, list) else [ends]
    lost = [end for end in numbers if isinstance(end, int) and end not in known]
    return [f"the config's end of text, {lost[0]}, is none of its tokens"] if lost else []


def chat_template(examination: Examination) -> Measurement:
    """Can questions be put as a chat, and are the template's marks tokens?"""
    tokenizer = getattr(examination.model, "tokenizer", None)
    if tokenizer is None:
        return not_measured("the model has no tokenizer")
    if not getattr(tokenizer, "chat_template", None):
        note = "the tokenizer has no chat template; questions are put as plain text"
        return warned(no_fault([], note), note)
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "1 + 1?"}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template is code of others, and may raise anything
        note = f"the chat template raises {type(error).__name__}: {error}"
        return warned(no_fault([], note), note)
    ids = tokenizer.get_vocab()
    split = sorted({mark for mark in MARK.findall(text) if mark not in ids})
    note = "the marks of the chat template are tokens"
    if split:
        note = f"{', '.join(split[:3])} of the chat template is no token; another model's template?"
    return warned(no_fault([], note), note) if split else no_fault([], note)
