"""Parts of pages that are written by a script, between lines that mark them.

<!-- NAME -->            <!-- end of NAME -->
"""

from pathlib import Path

from step_saliency.storage.files import write_text


def part(text: str, name: str) -> str:
    """What stands between the marks of a page.

    Raises:
        ValueError: the page has no such marks.
    """
    return _parts(text, name)[1]


def with_part(text: str, name: str, new: str) -> str:
    """The page with something else between its marks.

    Raises:
        ValueError: the page has no such marks.
    """
    before, _, after = _parts(text, name)
    return f"{before}{new}{after}"


def write_part(page: Path, name: str, new: str) -> None:
    """Renew a part of a page; a page that has it already is left alone."""
    text = page.read_text(encoding="utf-8")
    renewed = with_part(text, name, new)
    if renewed != text:
        write_text(page, renewed)


def _parts(text: str, name: str) -> tuple[str, str, str]:
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, begin, rest = text.partition(first)
    middle, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"the page has no lines {first.strip()!r} and {last.strip()!r}")
    return before + begin, middle, end + after
