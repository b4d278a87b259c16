"""Maps and what describes them, in one safetensors file, checked before a number is believed.

    format     step-saliency-map/3
    saliency   JSON: trace, layers, n_layers, objective, method, pool, rows, last_row, windows
    sha256     of the description, the type, the shape and the numbers

Version 1 had no digest, version 2 no windows; such files are read. What a file declares is checked
against its size, and the shape of the maps against the steps and layers of the description, before
anything is read that is larger than the header. Maps are finite and not negative.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from step_saliency.options import Pool, Rows
from step_saliency.storage.files import WriteError, make_folder, read_bytes, replacing
from step_saliency.storage.json_text import parse_object
from step_saliency.storage.traces import TraceFields, first_fault, read_trace

FORMAT = "step-saliency-map/3"
EARLIER_FORMATS = ("step-saliency-map/1", "step-saliency-map/2")
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Types that maps may have, and bytes of a number."""
MOST_LAYERS = 10_000
"""More layers than any model has; what declares more is damaged."""

Window = Annotated[int, Field(ge=1)]


class MapFields(BaseModel):
    """The description of a map, by types."""

    model_config = ConfigDict(strict=True, extra="forbid")

    trace: TraceFields
    layers: list[int] = Field(min_length=1)
    n_layers: int = Field(ge=1, le=MOST_LAYERS)
    objective: str
    method: str
    pool: Pool
    rows: Rows
    last_row: bool = False
    windows: list[Window | None] | None = None

    @model_validator(mode="after")
    def _layers_exist(self) -> "MapFields":
        if len(set(self.layers)) < len(self.layers):
            raise ValueError("layers repeat")
        if not all(0 <= layer < self.n_layers for layer in self.layers):
            raise ValueError(f"layers that a model of {self.n_layers} layers does not have")
        if self.windows is not None and len(self.windows) != len(self.layers):
            raise ValueError("there is not one window for each layer")
        return self


def write_maps(path: Path, maps: Float[Tensor, "..."], description: Mapping[str, Any]) -> None:
    """Write maps and description; the file appears whole or not at all, its folder is made.

    Raises:
        ValueError: entries are not finite or negative.
        WriteError: the file cannot be written.
    """
    numbers, text = maps.detach().cpu().contiguous(), json.dumps(description)
    _check_numbers(numbers)
    metadata = {"format": FORMAT, "saliency": text, "sha256": _digest(text, numbers)}
    make_folder(path.parent)
    with replacing(path) as part:
        try:
            save_file({"maps": numbers}, part, metadata=metadata)
        except SafetensorError as error:
            raise WriteError(f"cannot write {path}: {error}") from error


def read_maps(path: str | Path) -> tuple[Float[Tensor, "..."], dict[str, Any]]:
    """Read what `write_maps` wrote; of the description, the trace is made already.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, damaged, or is no map.
    """
    data = read_bytes(Path(path))
    try:
        return _parse(data)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{path} is no saved map, or is damaged or cut short: {error}") from error


def _parse(data: bytes) -> tuple[Float[Tensor, "..."], dict[str, Any]]:
    header, n_bytes = _header(data)
    metadata = header.pop("__metadata__", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    if metadata.get("format") not in (FORMAT, *EARLIER_FORMATS):
        raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
    text = metadata.get("saliency")
    if not isinstance(text, str):
        raise ValueError("it does not say what it is a map of")
    description = _description(text)
    _check_shape(header, n_bytes, description)
    maps = load(data)["maps"]
    if (metadata["format"] != EARLIER_FORMATS[0] or "sha256" in metadata) and (
        metadata.get("sha256") != _digest(text, maps)
    ):
        raise ValueError("its numbers or words are not those that were written")
    _check_numbers(maps)
    return maps, {**description, "trace": read_trace(description["trace"])}


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """What a safetensors file declares, and the bytes of numbers that it has."""
    n_header = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 0 < n_header <= len(data) - 8:
        raise ValueError("it is cut short or no safetensors file")
    return parse_object(data[8 : 8 + n_header]), len(data) - 8 - n_header


def _description(text: str) -> dict[str, Any]:
    description = parse_object(text)
    try:
        MapFields.model_validate(description)
    except ValidationError as error:
        raise ValueError(f"its description is damaged: {first_fault(error)}") from error
    return description


def _check_shape(header: Mapping[str, Any], n_bytes: int, description: Mapping[str, Any]) -> None:
    """Whether the one tensor is of the declared layers and steps, and as large as the file says."""
    tensor = header.get("maps")
    if len(header) != 1 or not isinstance(tensor, dict):
        raise ValueError(f"it holds {sorted(header)}, not maps alone")
    shape, dtype = tensor.get("shape"), tensor.get("dtype")
    n_steps, n_layers = len(description["trace"]["starts"]), len(description["layers"])
    if dtype not in DTYPES:
        raise ValueError(f"its maps are {dtype}, not one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"its maps have the shape {shape}")
    if len(shape) not in (3, 4) or shape[0] != n_layers or shape[-2:] != [n_steps, n_steps]:
        raise ValueError(f"its maps have the shape {shape} for {n_layers} layers, {n_steps} steps")
    heads = shape[1] if len(shape) == 4 else 1
    if n_layers * heads * n_steps**2 * DTYPES[dtype] != n_bytes:
        raise ValueError(f"it has {n_bytes} bytes of numbers, not those of {shape}")


def _check_numbers(maps: Float[Tensor, "..."]) -> None:
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("the maps hold NaN or infinite entries")
    if maps.numel() and float(maps.min()) < 0:
        raise ValueError(f"the maps go down to {float(maps.min()):.3g}; they cannot be negative")


def _digest(text: str, maps: Float[Tensor, "..."]) -> str:
    digest = hashlib.sha256(f"{text}\n{maps.dtype} {list(maps.shape)}\n".encode())
    digest.update(maps.view(torch.uint8).numpy().data)
    return digest.hexdigest()
