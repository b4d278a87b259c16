"""Is a folder a checkpoint that can be read at all? Looked at before any library opens a file.

    every entry        a regular file or a folder: a pipe would be waited for without end
    JSON files         JSON objects
    weights            safetensors of this folder, whatever an index or the config names, or one
                       GGUF file; pickles are never opened, since reading one can run its code
    safetensors files  whole: the tensors that a file declares are those that it holds

When it misleads: a file may still hold other numbers than those that were saved.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from step_saliency.models.readable import UnreadableError, reason

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    INDEX,
)

Shape = tuple[int, ...]


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a whole checkpoint in safetensors, by the name of the file.

    Raises:
        ValueError: which file is missing or wrong, and what would be right.
    """
    for entry in sorted(folder.iterdir()):
        if not (entry.is_file() or entry.is_dir()):
            raise UnreadableError(f"{str(entry)!r} is neither a file nor a folder")
    if not (folder / "config.json").is_file():
        raise UnreadableError(f"the folder {str(folder)!r} has no config.json")
    objects = {name: json_object(folder / name) for name in JSON_FILES if (folder / name).is_file()}
    if (folder / "adapter_config.json").exists():
        raise UnreadableError(
            f"the folder {str(folder)!r} holds an adapter of another model "
            "(adapter_config.json); merge the two and save the whole model"
        )
    index = objects.get(INDEX)
    if index is not None:
        check_index(index, str(folder / INDEX))
    check_declared_weights(objects["config.json"], str(folder / "config.json"))
    stored = stored_shapes(weight_files(folder))
    n_layers = objects["config.json"].get("num_hidden_layers")
    if isinstance(n_layers, int) and n_layers > len(stored):
        # before a config is made of it, which lists every layer
        raise UnreadableError(
            f"{str(folder / 'config.json')!r} describes {n_layers} layers, and the weights hold "
            f"{len(stored)} tensors"
        )


def json_object(file: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{str(file)!r} is not readable as JSON: {reason(error)}") from error
    if not isinstance(value, dict):
        raise UnreadableError(
            f"{str(file)!r} holds {type(value).__name__} where a JSON object is needed"
        )
    return value


def check_index(index: Mapping[str, Any], file: str) -> None:
    """Refuse an index of weights that names anything but safetensors files beside it.

    Raises:
        ValueError: naming the first such name.
    """
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UnreadableError(f"{file!r} has no weight_map that says where tensors are")
    for name in names.values():
        if not _is_safetensors_name(name):
            raise UnreadableError(
                f"{file!r} names {name!r}; weights are read from *.safetensors files beside it only"
            )


def check_declared_weights(config: Mapping[str, Any], file: str) -> None:
    """Refuse a config that names a file of weights which is no safetensors file beside it.

    Raises:
        ValueError: naming it.
    """
    name = config.get("transformers_weights")
    if name is not None and not _is_safetensors_name(name) and name != INDEX:
        raise UnreadableError(
            f"{file!r} names {name!r} as its weights; they are read from *.safetensors files "
            "beside it only"
        )


def _is_safetensors_name(name: object) -> bool:
    if not isinstance(name, str) or not name.endswith(".safetensors") or "\\" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def weight_files(folder: Path) -> list[Path]:
    """Files that the weights of a checked folder are read from.

    Raises:
        ValueError: there are none, only pickles, or one that the index names is missing.
    """
    config = json_object(folder / "config.json")
    name = config.get("transformers_weights") or (
        WEIGHTS if (folder / WEIGHTS).is_file() else INDEX
    )
    if name != INDEX:
        return [_existing(folder / name, "config.json")]
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    names = sorted(set(json_object(folder / INDEX)["weight_map"].values()))
    return [_existing(folder / name, INDEX) for name in names]


def _existing(file: Path, named_by: str) -> Path:
    if not file.is_file():
        raise UnreadableError(f"{str(file)!r} does not exist, though {named_by} names it")
    return file


def _no_weights(folder: Path) -> UnreadableError:
    pickles = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
    if pickles:
        return UnreadableError(
            f"the folder {str(folder)!r} has its weights only as a pickle ({pickles[0]}), which "
            "can run code when it is read; save it again as safetensors "
            "(model.save_pretrained(folder))"
        )
    return UnreadableError(f"the folder {str(folder)!r} has no {WEIGHTS}, {INDEX} or *.gguf file")


def stored_shapes(files: Iterable[Path]) -> dict[str, Shape]:
    """Shape of each tensor in safetensors files, from their headers.

    Raises:
        ValueError: a file is damaged, or a tensor is in two of them.
    """
    shapes: dict[str, Shape] = {}
    for file in files:
        for name, shape in _shapes(file).items():
            if name in shapes:
                raise UnreadableError(f"{str(file)!r} holds {name!r}, as another file before it")
            shapes[name] = shape
    return shapes


def _shapes(file: Path) -> dict[str, Shape]:
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise UnreadableError(
            f"{str(file)!r} is no whole safetensors file: {reason(error)}"
        ) from error
