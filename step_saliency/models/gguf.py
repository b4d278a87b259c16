"""One GGUF file as a checkpoint: which file it is, what it holds, and what of it is not read.

transformers makes config, tokenizer and weights of the file, for the architectures that it knows.
Its weights are unpacked to plain numbers; those of 8 bits or less are the file's rounded ones.

transformers passes over what it has no place for: the model would be another one than llama.cpp
runs, so such a file is refused. Scaled rotations are read by `gguf_config`.

When it misleads: the config has transformers' defaults for what it does not ask a file for, such
as caps of attention scores.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from step_saliency.models.bundled import Source
from step_saliency.models.folder import Shape
from step_saliency.models.gguf_config import FOLDER_INSTEAD, ROPE_FREQS
from step_saliency.models.readable import UnreadableError, reason

PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def gguf_source(file: Path) -> Source:
    """A GGUF file as a source.

    Raises:
        ValueError: it is one of several parts, no GGUF file, or the package gguf is missing.
    """
    part = PART.search(file.name)
    if part and int(part[1]) > 1:
        raise UnreadableError(
            f"{str(file)!r} is one of {int(part[1])} parts; join them first "
            "(llama-gguf-split --merge)"
        )
    with file.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise UnreadableError(f"{str(file)!r} is no GGUF file: it begins with {magic!r}")
    if find_spec("gguf") is None:
        raise UnreadableError(f"reading {str(file)!r} needs: pip install gguf")
    place = file.absolute()
    return Source(str(place.parent), gguf_file=place.name)


def only_gguf(folder: Path) -> Path | None:
    """The one GGUF file of a folder; None without any.

    Raises:
        ValueError: there are several.
    """
    files = sorted(file for file in folder.glob("*.gguf") if file.is_file())
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UnreadableError(
            f"the folder {str(folder)!r} has {len(files)} GGUF files ({names}); name one of them"
        )
    return files[0] if files else None


def gguf_shapes(file: Path) -> dict[str, Shape]:
    """Shape of each tensor of a GGUF file, under its own names.

    Raises:
        ValueError: the file is damaged.
    """
    from gguf import GGUFReader  # heavy, and needed for GGUF files only

    try:
        tensors = GGUFReader(file).tensors
        return {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in tensors}
    except Exception as error:
        raise UnreadableError(f"{str(file)!r} is no whole GGUF file: {reason(error)}") from error


def refuse_unread(file: Path, model: Any) -> None:
    """Refuse a GGUF file with tensors that transformers has no place for in a model.

    Raises:
        ValueError: naming them.
    """
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    processor = TENSOR_PROCESSORS.get(model.config.model_type, TensorProcessor)
    known = get_gguf_hf_weights_map(model, processor(config=model.config.to_dict()))
    # experts are put together from several tensors, under names of their own
    unread = [
        name
        for name in gguf_shapes(file)
        if name not in known and "_exps" not in name and name != ROPE_FREQS
    ]
    if unread:
        more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
        raise UnreadableError(
            f"the file {str(file)!r} cannot be read: extra tensors: {', '.join(unread[:3])}{more}; "
            "transformers has no place for them, and the model without them is another one; "
            f"{FOLDER_INSTEAD}"
        )
