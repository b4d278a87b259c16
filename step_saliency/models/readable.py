"""What cannot be read is one line, a ValueError: which source, which part of it, what is wrong.

transformers and the libraries below it raise whatever their parsers meet in a damaged file, from
KeyError to RecursionError. `reading` turns all of it into one kind of error, with the first one as
its cause.

When it misleads: a mistake in a reader looks like a fault of the files; the cause tells them apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import torch

from step_saliency.models.bundled import BUNDLED, Source

LONGEST_REASON = 400


class UnreadableError(ValueError):
    """A checkpoint, or a file of it, that cannot be read."""


@contextmanager
def reading(source: Source, name: str, part: str) -> Iterator[None]:
    """Context in which any exception but for lack of memory becomes an `UnreadableError`.

    Args:
        source: What is read.
        name: What the user called it.
        part: Which part of it is read, such as ``tokenizer``.
    """
    try:
        yield
    except (UnreadableError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise unreadable(source, name, f"{part}: {reason(error)}") from error


def unreadable(source: Source, name: str, why: str) -> UnreadableError:
    """The error for a source, to be raised."""
    if source.help:
        return UnreadableError(f"{source.help} ({why})")
    if source.gguf_file:
        return UnreadableError(f"the file {str(source.gguf_path)!r} cannot be read: {why}")
    if source.is_folder:
        return UnreadableError(f"the folder {source.path!r} cannot be read: {why}")
    close = get_close_matches(name, BUNDLED, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UnreadableError(
        f"{hint}{name!r} is not a bundled name ({', '.join(BUNDLED)}), not a folder, and cannot be "
        f"read from the hub: {why}"
    )


def reason(error: BaseException) -> str:
    """What an exception says, in one line of bounded length."""
    text = " ".join(str(error).split()) or "nothing more is known"
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]}..."
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"
