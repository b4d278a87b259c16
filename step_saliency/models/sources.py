"""Name -> where its files are: a bundled name, a folder in Hugging Face format, or a hub id."""

import os
from pathlib import Path

from step_saliency.models.bundled import BUNDLED, Source


def resolve_source(name: str | os.PathLike[str]) -> Source:
    """Find out whether ``name`` is a bundled name, a folder or a hub id, without reading weights.

    Raises:
        ValueError: for a folder that does not exist or lacks config.json or safetensors.
    """
    text = os.fspath(name)
    if text in BUNDLED:
        return BUNDLED[text]()
    folder = Path(text).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return Source(str(folder))
    looks_like_path = text.startswith((".", "~", os.sep)) or text.count("/") > 1 or "\\" in text
    if looks_like_path or not text:
        raise ValueError(f"there is no folder {text!r}")
    return Source(text)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"the folder {str(folder)!r} has no config.json")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
    if pickles:
        raise ValueError(
            f"the folder {str(folder)!r} has its weights only as a pickle ({pickles[0]}), which "
            "can run code when it is read; save it again as safetensors "
            "(model.save_pretrained(folder))"
        )
    raise ValueError(f"the folder {str(folder)!r} has no *.safetensors file")
