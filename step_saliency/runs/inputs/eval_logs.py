"""Logs of inspect-ai: through that package where it is installed, else read as what they are.

A ``.eval`` file is a zip of JSON with one file a sample; the older form is one JSON object.
"""

import importlib.util
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LARGEST = 2**30
"""Bytes up to which a file in a zip is unpacked."""


def is_log(value: object) -> bool:
    """Whether a JSON value is a log, not a row."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("eval"), Mapping)
        and ("samples" in value or "status" in value)
    )


def log_samples(log: Mapping[str, Any]) -> list[Any]:
    """Samples of a log.

    Raises:
        ValueError: it has none.
    """
    samples = log.get("samples")
    if not isinstance(samples, list) or not samples:
        raise ValueError("the log of inspect-ai holds no samples; it may be its header alone")
    return samples


def zip_samples(path: Path) -> Iterator[Any]:
    """Samples of a ``.eval`` file, or of a zip of JSON files.

    Raises:
        ValueError: it is cut short, holds no sample, or is packed in a way that needs inspect-ai.
    """
    if importlib.util.find_spec("inspect_ai") is not None and path.suffix == ".eval":
        yield from _by_package(path)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith("samples/"))
            if not names:
                raise ValueError(f"{path} is a zip without samples/, so no log of inspect-ai")
            for name in names:
                yield _member(archive, name)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be unpacked ({error}); if it is whole, install inspect-ai"
        ) from None


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > LARGEST:
        return ValueError(f"{name} unpacks to more than {LARGEST} bytes")
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        return ValueError(f"{name} is no JSON: {error}")


def _by_package(path: Path) -> Iterator[Any]:
    from inspect_ai.log import read_eval_log

    log = read_eval_log(str(path), resolve_attachments=True)
    yield from log_samples({"samples": [s.model_dump(mode="json") for s in log.samples or []]})
