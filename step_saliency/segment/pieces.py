"""What text does each token add? Token ids to text pieces, one token at a time.

The pieces of a sequence joined are its text, without tokenising anything again. A character whose
UTF-8 bytes are split over several tokens belongs to the piece of the token that completes it; the
tokens before it have empty pieces. Bytes that no later token completes become U+FFFD.

Byte-level and metaspace vocabularies are read from the token strings (constant time a token). For
any other tokenizer the piece is what ``decode`` of the last few tokens grows by, so a decoder that
rewrites text across tokens (clean-up of spaces) can differ from ``decode`` of the whole at a space.
"""

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WINDOW = 6

TokenIds: TypeAlias = Int[Tensor, "..."] | Sequence[int] | Sequence[Sequence[int]]
"""One row of token ids, shape ``pos`` or ``1 pos``."""

Spelling = Literal["bytes", "metaspace", "window"]


class TokenPieces:
    """Text pieces of one growing sequence of tokens.

    Args:
        tokenizer: A Hugging Face tokenizer, fast or slow, or the table of one.

    Raises:
        ValueError: The object cannot decode token ids.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.table = TokenTable.of(tokenizer)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._window: list[int] = []
        self._read = 0

    def push(self, token: int) -> str:
        """Text that this token completes; empty while a character waits for more bytes.

        Before a special token, ``flush`` what the tokens before it left incomplete.

        Raises:
            ValueError: The token is not in the vocabulary.
        """
        if self.table.is_special(token):
            return self.table.literal(token)
        if self.table.kind == "window":
            return self._push_window(token)
        part = self.table.part(token)
        return self._utf8.decode(part)

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """Pieces of all these tokens, the last one with whatever was left incomplete."""
        pieces: list[str] = []
        for token in tokens:
            if pieces and self.table.is_special(int(token)):
                pieces[-1] += self.flush()
            pieces.append(self.push(int(token)))
        if pieces:
            pieces[-1] += self.flush()
        return pieces

    def flush(self) -> str:
        """Replacement characters for bytes that no token has completed."""
        if self.table.kind == "window":
            rest = self._grown()
            self._window, self._read = [], 0
            return rest
        return self._utf8.decode(b"", final=True)

    def _push_window(self, token: int) -> str:
        self._window.append(token)
        grown = self._grown()
        if grown.endswith(REPLACEMENT) and len(self._window) - self._read < _WINDOW:
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return grown

    def _grown(self) -> str:
        known = self.table.decode(self._window[: self._read])
        return self.table.decode(self._window)[len(known) :]


class TokenTable:
    """How the tokens of a tokenizer spell text, and which of them are marks."""

    def __init__(self, tokenizer: Any) -> None:
        if not hasattr(tokenizer, "decode"):
            raise ValueError(
                f"{type(tokenizer).__name__} has no decode(); text cannot be aligned with tokens. "
                "Use a Hugging Face tokenizer (model.tokenizer), or Trace.from_tokens with known "
                "starts"
            )
        self.tokenizer = tokenizer
        self.kind = _kind(tokenizer)
        self._added = {
            int(i): str(token)
            for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        }
        self.special = frozenset(_special_ids(tokenizer, self.kind))
        self._parts: dict[int, bytes] = {}

    @classmethod
    def of(cls, tokenizer: Any) -> "TokenTable":
        """The table of a tokenizer; a table is its own."""
        return tokenizer if isinstance(tokenizer, TokenTable) else cls(tokenizer)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenTable":
        """Copies of a tracker share the table: the tokenizer behind it is large and constant."""
        return self

    def is_special(self, token: int) -> bool:
        """Whether the token is a mark of the template (BOS, a role marker), not text."""
        return token in self.special

    def part(self, token: int) -> bytes:
        """Bytes that the token stands for."""
        if token not in self._parts:
            self._parts[token] = self._spell(token)
        return self._parts[token]

    def literal(self, token: int) -> str:
        """The token as it is written in a prompt, such as ``<|im_end|>``."""
        return self._added[token] if token in self._added else self.decode([token])

    def decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _spell(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        spelled = self.tokenizer.convert_ids_to_tokens(token)
        if spelled is None:
            raise ValueError(f"token {token} is not in the vocabulary of the tokenizer")
        if self.kind == "bytes":
            return _from_byte_alphabet(spelled)
        byte = _BYTE_TOKEN.fullmatch(spelled)
        return bytes([int(byte[1], 16)]) if byte else spelled.replace("▁", " ").encode()


def token_row(tokens: Any) -> list[int]:
    """One row of token ids as a list; none is allowed.

    Raises:
        ValueError: The shape is neither ``pos`` nor ``1 pos``.
    """
    row = torch.as_tensor(tokens)
    if row.ndim > 2 or (row.ndim == 2 and row.shape[0] != 1):
        raise ValueError(f"tokens must have shape [pos] or [1, pos], got {list(row.shape)}")
    return [int(token) for token in row.reshape(-1).tolist()]


def _kind(tokenizer: Any) -> Spelling:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return "window"
    state = json.loads(decoder.__getstate__())
    types = {part["type"] for part in state.get("decoders", [state])}
    if "ByteLevel" in types:
        return "bytes"
    return "metaspace" if types & {"Metaspace", "ByteFallback"} else "window"


def _special_ids(tokenizer: Any, kind: Spelling) -> set[int]:
    special = {int(i) for i in getattr(tokenizer, "all_special_ids", [])}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special |= {int(i) for i, token in added.items() if getattr(token, "special", False)}
    # An unknown word is text that the vocabulary lacks; only byte-level ones never need it.
    if kind != "bytes":
        special.discard(getattr(tokenizer, "unk_token_id", None))
    return special


def _byte_alphabet() -> dict[str, int]:
    """The 256 printable characters that GPT-2's vocabulary writes bytes as."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(moved)}


_BYTES = _byte_alphabet()


def _from_byte_alphabet(spelled: str) -> bytes:
    if all(char in _BYTES for char in spelled):
        return bytes(_BYTES[char] for char in spelled)
    return spelled.encode()
