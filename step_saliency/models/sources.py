"""Name -> where its files are: a bundled name, a folder, a GGUF file, or a hub id."""

import os
from pathlib import Path

from step_saliency.models.bundled import BUNDLED, Source
from step_saliency.models.folder import check_folder
from step_saliency.models.gguf import gguf_source, only_gguf
from step_saliency.models.readable import UnreadableError


def resolve_source(name: str | os.PathLike[str]) -> Source:
    """Find out what ``name`` is, without reading weights.

    Raises:
        ValueError: for a folder that does not exist or is no checkpoint in safetensors or GGUF, or
            a file that is no GGUF file.
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"the name of a model is text or a path, not a {type(name).__name__}")
    text = os.fspath(name)
    if text in BUNDLED:
        return BUNDLED[text]()
    place = Path(text).expanduser()
    if place.is_dir():
        return _folder_source(place)
    if place.is_file():
        return gguf_source(place)
    looks_like_path = text.startswith((".", "~", os.sep)) or text.count("/") > 1 or "\\" in text
    if looks_like_path or not text or text.endswith(".gguf"):
        raise UnreadableError(f"there is no folder {text!r}, nor a GGUF file of that name")
    return Source(text)


def _folder_source(folder: Path) -> Source:
    """Safetensors if there are any, else the one GGUF file."""
    file = None if any(folder.glob("*.safetensors*")) else only_gguf(folder)
    if file is not None:
        return gguf_source(file)
    check_folder(folder)
    return Source(str(folder))
