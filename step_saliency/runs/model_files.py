"""Whether a model is still the one that a results folder was made with: digests of its files.

A model is a name in the settings, and the files behind the name may change. The manifest keeps a
hash of all of them; where sizes and times of the files are as they were, nothing is read again. A
model that is no folder of this machine is known by its name and revision alone.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from step_saliency.models.sources import resolve_source
from step_saliency.storage.files import is_file

MODEL_FILES = re.compile(
    r".*\.safetensors|.*\.gguf|config\.json|.*\.safetensors\.index\.json|tokenizer.*|vocab.*"
    r"|merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template.*"
)


def checked_weights(
    place: Path, manifest: Mapping[str, Any], model: str
) -> Mapping[str, Any] | None:
    """Digest of a model's files, the same as in the manifest if that has one.

    Args:
        place: The results folder, for the message.
        manifest: What an earlier run said, or nothing.
        model: Name as for `load_model`.

    Returns:
        ``sha256`` and, by file, size and time; None where the model is no folder here. What the
        manifest says where the model is no longer there.

    Raises:
        ValueError: the files are others than then.
    """
    earlier = manifest.get("weights")
    earlier = earlier if isinstance(earlier, dict) else None
    try:
        files = _files(model)
    except ValueError:
        return earlier
    if files is None:
        return None
    facts = {name: [file.stat().st_size, file.stat().st_mtime_ns] for name, file in files.items()}
    if earlier is not None and earlier.get("files") == facts:
        return earlier
    digest = _digest(files)
    if earlier is not None and earlier.get("sha256") != digest:
        raise ValueError(
            f"{place} holds a run with another model: the files of {model!r} have changed since; "
            "choose another place"
        )
    return {"sha256": digest, "files": facts}


def _files(model: str) -> dict[str, Path] | None:
    source = resolve_source(model)
    if not source.is_folder:
        return None
    folder = Path(source.path)
    if source.gguf_file is not None:
        return {source.gguf_file: folder / source.gguf_file}
    names = sorted(file.name for file in folder.iterdir() if MODEL_FILES.fullmatch(file.name))
    return {name: folder / name for name in names if is_file(folder / name)}


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, file in files.items():
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()
