"""Objects and lists that are written as text in a cell: JSON, or as Python and numpy write them."""

import ast
import io
import json
import re
import tokenize
import warnings
from collections.abc import Iterator

_REPR = re.compile(r"""\s*(?:\[\s*)?(?:\{\s*)?['"]""")
_NO_TEXT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def from_text(value: object) -> object:
    """An object or list that is written as text; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return _from_repr(value) if _REPR.match(value) else value


def _from_repr(text: str) -> object:
    """What pandas writes into a table; numpy leaves the commas between elements out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(" ".join(_with_commas(text)))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        return text
    return value if isinstance(value, dict | list) else text


def _with_commas(text: str) -> Iterator[str]:
    ended = False
    for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
        if token.type in _NO_TEXT:
            continue
        is_text = token.type == tokenize.STRING
        if ended and (is_text or token.string in ("{", "[")):
            yield ","
        yield token.string
        ended = is_text or token.string in ("}", "]")
