"""The reasoner's tokenizer: one token a character, and a few whole words where that saves length.

Names of people and the fixed phrases of the ``words`` notation are one token each; digits, letters
and signs always stand alone, so that arithmetic is digit by digit and carries are hard. Below that
it is a byte-level BPE without merges, so any text can be encoded and decodes to itself.

Words and phrases are added tokens and bytes are written in the byte-level alphabet, because
transformers 5 gives every Qwen2 folder its own ``Qwen2Tokenizer``, whatever class the folder names:
that one keeps the vocabulary and the added tokens and brings its own pre-tokenizer (and composes
Unicode characters, NFC). Written so, both read every text in ASCII alike.
"""

import string
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from step_saliency.tasks.notation import NAMES
from step_saliency.tasks.report.graph import THINGS

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
THINK = ("<think>", "</think>")
N_TOKENS = 406
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
REPORT_PHRASES = (
    *(f"'s {thing}" for thing in THINGS),
    " are ",
    " + ",
    " - ",
    " = ",
    "Find ",
    ". What are ",
    "The answer is ",
    ": ",
    ", ",
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


def build_tokenizer(
    *, phrases: Sequence[str] = PHRASES, model_max_length: int = 1024
) -> PreTrainedTokenizerFast:
    """The tokenizer, made from the word list alone: the reasoner's, or with other phrases."""
    special = [PAD, BOS, EOS, *ROLES, *THINK]
    characters = ["\n", *(c for c in string.printable if c.isprintable())]
    words = [*phrases, *NAMES]
    rest = [byte for byte in range(256) if chr(byte) not in characters]
    alphabet = bytes_to_unicode()
    letters = [alphabet[ord(c)] for c in characters]
    tokens = [*special, *letters, *words, *(alphabet[byte] for byte in rest)]
    tokens += [f"<|reserved_{i}|>" for i in range(N_TOKENS - len(tokens))]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in special[: -len(THINK)]])
    plain = [*THINK, *words]
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
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
