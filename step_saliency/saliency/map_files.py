"""Maps and what describes them, in one safetensors file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from step_saliency.storage.files import replacing

FORMAT = "step-saliency-map/1"


def write_maps(path: Path, maps: Float[Tensor, "..."], description: Mapping[str, Any]) -> None:
    """Write maps and description; the file appears whole or not at all, its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "saliency": json.dumps(description)}
    with replacing(path) as part:
        save_file({"maps": maps.detach().cpu().contiguous()}, part, metadata=metadata)


def read_maps(path: str | Path) -> tuple[Float[Tensor, "..."], dict[str, Any]]:
    """Read what `write_maps` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short or is no map.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            maps = file.get_tensor("maps").clone() if metadata.get("format") == FORMAT else None
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or no safetensors file: {error}") from error
    if maps is None:
        raise ValueError(
            f"{path} is no saved map: its format is {metadata.get('format')!r}, not {FORMAT!r}"
        )
    description: dict[str, Any] = json.loads(metadata["saliency"])
    return maps, description
