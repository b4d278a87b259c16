"""The reasoner's tokenizer: one token a character, and a few whole words where that saves length.

Names of people and the fixed phrases of the ``words`` notation are one token each; digits, letters
and signs always stand alone, so that arithmetic is digit by digit and carries are hard. Characters
outside ASCII fall back to their UTF-8 bytes: any text can be encoded, and decodes to itself.
"""

import string
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from step_saliency.tasks.notation import NAMES

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
THINK = ("<think>", "</think>")
PHRASES = (
    " has more than ",
    " has ",
    " more points than ",
    " fewer points than ",
    " more than ",
    " fewer than ",
    "as many points as ",
    "as many as ",
    " and ",
    " together",
    " points",
    "How many points does ",
    " have?",
    "Given: ",
    "Then ",
    "The answer is ",
    ": ",
    "; ",
    ". ",
    "\n\n",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '<|assistant|>' + message['content'].split('</think>')[-1].lstrip('\\n') + eos_token }}"
    "{%- else %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|><think>\\n' }}{%- endif %}"
)


def build_tokenizer(*, model_max_length: int = 1024) -> PreTrainedTokenizerFast:
    """The tokenizer, made from the word list alone."""
    special = [PAD, BOS, EOS, *ROLES, *THINK]
    characters = ["\n", *(c for c in string.printable if c.isprintable())]
    tokens = [*special, *characters, *PHRASES, *NAMES, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, ignore_merges=True))
    words = sorted([*PHRASES, *NAMES], key=len, reverse=True)
    pattern = Regex("|".join(_escaped(word) for word in words))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in special[: -len(THINK)]])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in THINK])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _escaped(word: str) -> str:
    return "".join("\\" + c if c in "?.+*()[]|\\" else c for c in word)


def save_tokenizer(folder: Path) -> None:
    build_tokenizer().save_pretrained(folder)
