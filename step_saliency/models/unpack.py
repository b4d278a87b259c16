"""GGUF file -> folder of safetensors, once.

transformers reads a GGUF file three times (config, tokenizer, weights) in pure Python, which takes
half a minute for 135M parameters. What it makes of the file is kept in the user's cache folder, so
that the next model is there in seconds, with the same weights to the bit.
"""

import contextlib
import hashlib
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from platformdirs import user_cache_path
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from step_saliency.models.bundled import Source


def unpacked(source: Source) -> Source:
    """Where to read what ``source`` holds without its GGUF file.

    The folder's name has the digest of the file and the version of transformers, so that another
    file or another reading of it is another folder. Several processes may call this at a time.

    Args:
        source: Any source.

    Returns:
        A folder of config, tokenizer and float32 weights, at 4 bytes a parameter, where ``source``
        is a GGUF file and the cache folder can be written to; else ``source`` itself.
    """
    if source.gguf_file is None:
        return source
    file = Path(source.path) / source.gguf_file
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    name = f"{file.stem}-{digest}-transformers-{version('transformers')}"
    folder = user_cache_path("step-saliency") / "unpacked" / name
    if not folder.is_dir():
        try:
            _unpack(source, folder)
        except (OSError, ValueError, KeyError, ImportError) as error:
            warnings.warn(
                f"{file.name} is read anew at every load, since it cannot be unpacked into "
                f"{str(folder)!r}: {error}",
                stacklevel=3,
            )
            return source
    return Source(str(folder), help=source.help)


def _unpack(source: Source, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as part:
        gguf = {"gguf_file": source.gguf_file}
        AutoTokenizer.from_pretrained(source.path, **gguf).save_pretrained(part)
        config = AutoConfig.from_pretrained(source.path, **gguf)
        options = (
            {"quantization_config": transformers.GgufConfig(dequantize=True)}
            if hasattr(transformers, "GgufConfig")
            else {}
        )
        model = AutoModelForCausalLM.from_pretrained(
            source.path, config=config, dtype=torch.float32, **gguf, **options
        )
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(part)
        done = Path(part) / "done"
        done.mkdir()
        for file in Path(part).iterdir():
            if file != done:
                file.rename(done / file.name)
        # Another process may have been faster; what it made is the same.
        with contextlib.suppress(FileExistsError):
            done.rename(folder)
