"""Tests of a problem: public and private ones, read without unpickling.

A test is ``{"input", "output", "testtype"}``. Private tests are JSON, or base64 of zlib of a pickle
of JSON. Unpickling runs code of whoever wrote the file; so the pickle is taken apart by
`pickletools` instead, and refused unless it is one text and nothing else. Compressed data are
opened up to a bound.
"""

import base64
import binascii
import pickletools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from step_saliency.storage.json_text import parse_json

LARGEST = 1 << 30
"""Bytes of private tests that are opened."""
TEXT = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
AROUND = frozenset({"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"})
MOST = 16
"""Parts of a pickle of one text: the text, and a few around it."""
KINDS = ("stdin", "functional")


@dataclass(frozen=True)
class CodeTest:
    """One test.

    Attributes:
        input: Standard input, or arguments as JSON, one a line.
        output: Expected output, or the value as JSON.
        kind: ``"stdin"`` or ``"functional"``.
    """

    input: str
    output: str
    kind: str


@dataclass(frozen=True)
class CodeTests:
    """All tests of a problem.

    Attributes:
        tests: Public ones, then private ones.
        function: Name of the function that is called, for functional tests.
    """

    tests: tuple[CodeTest, ...]
    function: str | None = None


def tests_of(record: Mapping[str, Any]) -> CodeTests:
    """Tests of a record.

    Raises:
        ValueError: they cannot be read, there are none, or a function is called and not named.
    """
    private = record["private_test_cases"]
    tests = (
        *_tests(record["public_test_cases"]),
        *_tests(private_text(private) if isinstance(private, str) else private),
    )
    metadata = record.get("metadata") or "{}"
    facts = parse_json(metadata) if isinstance(metadata, str) else metadata
    function = facts.get("func_name") if isinstance(facts, dict) else None
    if not tests:
        raise ValueError("there is no test")
    if any(test.kind == "functional" for test in tests) and not function:
        raise ValueError("a function is tested, and metadata names none (func_name)")
    return CodeTests(tests, function)


def private_text(field: str) -> str:
    """JSON of private tests, whichever of the two forms they have.

    Raises:
        ValueError: neither form; a pickle of anything but one text; more than `LARGEST` bytes.
    """
    if field.lstrip()[:1] in ("[", ""):
        return field
    try:
        packed = base64.b64decode(field, validate=True)
        opener = zlib.decompressobj()
        data = opener.decompress(packed, LARGEST)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"private tests are neither JSON nor base64 of zlib: {error}") from error
    if opener.unconsumed_tail or not opener.eof:
        raise ValueError(f"private tests are cut short, or larger than {LARGEST:,} bytes")
    return pickled_text(data)


def pickled_text(data: bytes) -> str:
    """The text that a pickle is, without unpickling it.

    Raises:
        ValueError: it is anything but one text.
    """
    try:
        some = islice(pickletools.genops(data), MOST)
        opcodes = [(opcode.name, value) for opcode, value, _ in some]
    except Exception as error:
        raise ValueError(f"private tests are no pickle: {error}") from error
    for name, _ in opcodes:
        if name not in TEXT | AROUND:
            raise ValueError(f"private tests are a pickle with {name}; refused")
    texts = [str(value) for name, value in opcodes if name in TEXT]
    if opcodes[-1][0] != "STOP":
        raise ValueError(f"private tests are a pickle of more than {MOST} parts; refused")
    if len(texts) != 1:
        raise ValueError(f"private tests are a pickle of {len(texts)} texts; one is expected")
    return texts[0]


def _tests(field: str | Sequence[Any]) -> list[CodeTest]:
    entries = parse_json(field or "[]") if isinstance(field, str) else field
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("tests are no list of objects")
    return [_test(entry) for entry in entries]


def _test(entry: Mapping[str, Any]) -> CodeTest:
    kind = str(entry.get("testtype"))
    if kind not in KINDS:
        raise ValueError(f"testtype={kind!r} is none of {', '.join(KINDS)}")
    missing = [name for name in ("input", "output") if name not in entry]
    if missing:
        raise ValueError(f"a test has no {' and no '.join(missing)}")
    return CodeTest(str(entry["input"]), str(entry["output"]), kind)
