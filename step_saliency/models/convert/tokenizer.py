"""The checkpoint's own tokenizer, on a TransformerLens object.

TransformerLens would load it again by name with ``add_bos_token=True`` and give it special tokens
that it lacks; then strings would become other token ids than those that the model was trained on.
"""

from typing import Any

from transformers import PreTrainedTokenizerBase


def attach_tokenizer(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Give ``model`` this very tokenizer, and let ``to_tokens`` do what the tokenizer does.

    The one thing that is added is a padding token, where there is none, since batches need it.
    """
    if tokenizer is None:
        return
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ids = tokenizer.encode("a")
    prepends = (
        len(ids) > 1 and tokenizer.bos_token_id is not None and (ids[0] == tokenizer.bos_token_id)
    )
    _set_tokenizer(model, tokenizer)
    model.cfg.tokenizer_prepends_bos = prepends
    model.cfg.default_prepend_bos = prepends


def _set_tokenizer(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    if hasattr(type(model), "tokenizer"):
        # A bridge's property loads a replaced tokenizer anew, with special tokens of its own.
        model._tokenizer = tokenizer
    else:
        model.tokenizer = tokenizer
