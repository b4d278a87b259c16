"""GGUF file -> folder of safetensors, once.

transformers reads a GGUF file three times (config, tokenizer, weights) in pure Python, which takes
half a minute for 135M parameters. What it makes of the file is kept in the user's cache folder, so
that the next model is there in seconds, with the same weights to the bit.
"""

import hashlib
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

from step_saliency.models.bundled import Source
from step_saliency.models.readable import UnreadableError

LARGEST = 2**29
"""Bytes of a GGUF file up to which it is unpacked, to about eight times its size."""


def unpacked(source: Source, write: Callable[[Path], None]) -> Source:
    """Where to read what ``source`` holds without its GGUF file.

    The folder's name has the digest of the file and the version of transformers, so that another
    file or another reading of it is another folder. Several processes may call this at a time.

    Args:
        source: Any source.
        write: Saves config, tokenizer and weights of ``source`` into a folder.

    Returns:
        The folder that was written, now or earlier, where ``source`` is a GGUF file of at most
        `LARGEST` bytes and the cache folder can be written to; else ``source`` itself.
    """
    if source.gguf_file is None or source.gguf_path.stat().st_size > LARGEST:
        return source
    file = source.gguf_path
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    name = f"{file.stem}-{digest}-transformers-{version('transformers')}"
    folder = user_cache_path("step-saliency") / "unpacked" / name
    if not folder.is_dir():
        try:
            _write_once(folder, write)
        except UnreadableError:
            raise  # nor could it be read anew
        except (OSError, ValueError) as error:
            warnings.warn(
                f"{file.name} is read anew at every load, since it cannot be unpacked into "
                f"{str(folder)!r}: {error}",
                stacklevel=3,
            )
            return source
    return Source(str(folder), help=source.help)


def _write_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside its place and move it there: it is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as place:
        part = Path(place) / folder.name
        part.mkdir()
        write(part)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster; what it wrote is the same
                raise
