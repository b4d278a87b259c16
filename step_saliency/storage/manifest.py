"""What a results folder says of itself: format, settings, model, versions."""

import json
import platform
import time
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from step_saliency.storage.files import replacing

PACKAGES = (
    "step-saliency",
    "transformer-lens",
    "transformers",
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "matplotlib",
)


def read_manifest(folder: Path, *, kind: str, writer: str) -> dict[str, Any]:
    """What the manifest of a results folder says.

    Args:
        folder: The folder.
        kind: Format that the manifest has to have.
        writer: Command that writes such folders, for messages.

    Raises:
        ValueError: there is none, or it is cut short or of something else.
    """
    file = folder / "manifest.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no manifest.json, so it is no results folder of `{writer}`"
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is cut short or damaged ({error}); remove it together with the folder, or "
            "choose another folder"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind:
        raise ValueError(f"{file} is no manifest of `{writer}` ({kind})")
    return manifest


def save_manifest(folder: Path, facts: Mapping[str, Any], started: float, *, kind: str) -> None:
    """Write a manifest, whole or not at all, with the versions of what made the folder.

    Args:
        folder: The folder.
        facts: JSON values.
        started: When the run began, in seconds of `time.time`.
        kind: Format of the folder.
    """
    manifest = {
        "format": kind,
        **facts,
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
    }
    with replacing(folder / "manifest.json") as part:
        part.write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def refuse_changes(
    folder: Path,
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    free: Collection[str] = (),
) -> None:
    """Raise ValueError for settings that differ from those of an earlier run in a folder.

    Args:
        folder: The folder.
        before: Settings of the earlier run.
        settings: Settings now.
        free: Settings that may change.
    """
    names = [name for name in settings if name not in free]
    changed = [name for name in names if before.get(name) != settings[name]]
    if changed:
        told = (f"{n}: {before.get(n)!r} then, {settings[n]!r} now" for n in changed)
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(told)}); choose another place"
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
