"""Responses that were decoded, in a folder that several processes share.

    STORE/GROUP/WRITER.jsonl            traces, each written when it is done (`TraceLog`)
    STORE/GROUP/WRITER.jsonl.facts.json seconds, responses and effects of that call

A file is written by one call of `ss.generate` and by no other, so nothing is locked. A process that
is killed leaves what was done; whoever asks for the same response again finds it. A response that
two processes decoded is the same text twice, since it depends on its seeds alone; the first by name
of the file counts.
"""

import json
import os
import platform
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from step_saliency.benchmark.provider.requests import Answer, Group, Request
from step_saliency.storage.files import is_file, make_folder, read_bytes, write_text
from step_saliency.storage.json_text import parse_object
from step_saliency.storage.lines import read_lines
from step_saliency.storage.traces import read_trace
from step_saliency.trace import Trace

_Place: TypeAlias = tuple[int, int, int, int, str]
"""Number, sample, seed, limit and the question; two questions may have one number."""


class Store:
    """The responses of one folder.

    Args:
        folder: The folder; made when something is kept.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._known: dict[str, dict[_Place, Answer]] = {}
        self._read: dict[Path, int] = {}

    def find(self, request: Request) -> Answer | None:
        """The response that was kept, if there is one to this very question.

        What it goes on from is told by its seed, which is derived from these words.
        """
        group = request.group
        self._look(group)
        place = request.number, request.sample, request.seed, request.limit, request.question
        return self._known.get(group.digest, {}).get(place)

    def new_file(self, group: Group) -> Path:
        """A place for the traces of one call."""
        folder = self.folder / group.digest
        make_folder(folder)
        note = folder / "group.json"
        if not note.exists():
            write_text(note, json.dumps(_described(group), indent=2, default=str))
        return folder / f"{_host()}-{os.getpid()}-{secrets.token_hex(6)}.jsonl"

    def keep_facts(self, file: Path, facts: Mapping[str, Any]) -> None:
        """Write down what is known of a call that is over."""
        write_text(_facts_file(file), json.dumps(facts, default=str))

    def _look(self, group: Group) -> None:
        """Read files that are new or have grown."""
        folder = self.folder / group.digest
        for file in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
            size = file.stat().st_size + (1 if is_file(_facts_file(file)) else 0)
            if self._read.get(file) != size:
                self._read[file] = size
                self._take(group, file)

    def _take(self, group: Group, file: Path) -> None:
        facts = _facts_of(file)
        known = self._known.setdefault(group.digest, {})
        for line in read_lines(file):
            try:
                trace = read_trace(line)
            except ValueError:
                continue
            place = _place(trace, group)
            earlier = known.get(place)
            if earlier is None or (facts and not earlier.facts):
                known[place] = Answer(trace, facts, is_kept=True)


def _place(trace: Trace, group: Group) -> _Place:
    usual = {
        "question_index": -1,
        "sample": -1,
        "seed": group.decoding.seed,
        "max_new_tokens": group.decoding.max_new_tokens,
    }
    number, sample, seed, limit = (int(trace.meta.get(name, usual[name])) for name in usual)
    return number, sample, seed, limit, str(trace.question)


def _facts_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.facts.json")


def _facts_of(file: Path) -> dict[str, Any]:
    beside = _facts_file(file)
    try:
        return parse_object(read_bytes(beside)) if is_file(beside) else {}
    except ValueError:
        return {}


def _described(group: Group) -> dict[str, Any]:
    """For readers: what the responses in a folder depend on."""
    return {
        "prefix": group.frame.prefix,
        "suffix": group.frame.suffix,
        "decoding": vars(group.decoding),
        "changes": dict(group.changes),
        "model": dict(group.model),
        "task": group.task,
    }


def _host() -> str:
    return "".join(char if char.isalnum() else "-" for char in platform.node())[:40] or "host"
