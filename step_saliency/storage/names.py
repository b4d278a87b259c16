"""Ids as file names: what is plain stays as it is, everything else gets a digest.

Ids that differ have names that differ, whatever their length and script. A plain id is its own
name. Any other is a readable beginning and 16 digits of its hash, and an id that looks like such a
name gets a digest too. Sample k of a row is the row's name with ``~k``, which no plain id contains.
"""

import hashlib
import re
import unicodedata

LONGEST = 100
"""Bytes of a name without digest; file systems take 255 with endings."""
RESERVED = re.compile(
    r".*-[0-9a-f]{16}|.*\.depth|(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE
)
"""Names with a digest, of depth curves, and of devices on Windows."""


def file_name(row: str, sample: int | None = None) -> str:
    """The name, without ending, of what belongs to a row or to one sample of it."""
    name = _beginning(row)
    is_plain = name == row != "" and unicodedata.is_normalized("NFC", row)
    if not is_plain or RESERVED.fullmatch(row):
        name = f"{name or 'trace'}-{_digest(row, 16)}"
    return name if sample is None else f"{name}~{sample}"


def earlier_file_name(row: str, sample: int | None = None) -> str:
    """The name by an earlier rule, under which folders of that time hold their files."""
    plain = re.sub(r"[^\w.-]+", "_", row).strip("._")[:120]
    name = plain if plain == row else f"{plain}-{_digest(row, 8)}"
    return name if sample is None else f"{name}-{sample}"


def names_of_id(trace: str) -> set[str]:
    """Every name that the file of a trace may have: ``a#0`` is a row or a sample of row ``a``."""
    row, mark, sample = trace.rpartition("#")
    names = {file_name(trace), earlier_file_name(trace)}
    if mark and re.fullmatch(r"[0-9]{1,9}", sample):
        names |= {file_name(row, int(sample)), earlier_file_name(row, int(sample))}
    return names


def _beginning(row: str) -> str:
    plain = re.sub(r"[^\w.-]+", "_", row).strip("._")
    return plain.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore")


def _digest(row: str, length: int) -> str:
    return hashlib.sha256(row.encode("utf-8", "surrogatepass")).hexdigest()[:length]
