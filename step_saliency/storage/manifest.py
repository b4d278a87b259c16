"""What results say of themselves: format, settings, model, versions, in JSON types."""

import json
import platform
import time
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from step_saliency.storage.files import is_file, read_bytes, write_text
from step_saliency.storage.json_text import parse_json

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
    if not is_file(file):
        if folder.is_dir():
            raise ValueError(
                f"{folder} holds no manifest.json, so it is no results folder of `{writer}`"
            )
        there = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        raise ValueError(f"{there}; a results folder of `{writer}` is needed")
    return read_facts(file, kind=kind, writer=writer)


def read_facts(file: Path, *, kind: str, writer: str) -> dict[str, Any]:
    """A JSON object of a stated format.

    Args:
        file: The file.
        kind: Its ``format``.
        writer: What writes such files, for messages.

    Raises:
        ValueError: it is cut short or of something else, or its settings are none.
    """
    try:
        facts = parse_json(read_bytes(file))
    except ValueError as error:
        raise ValueError(
            f"{file} is cut short or damaged ({error}); remove it together with what it belongs "
            "to, or choose another place"
        ) from error
    if not isinstance(facts, dict) or facts.get("format") != kind:
        raise ValueError(f"{file} is no manifest of `{writer}` ({kind})")
    if not isinstance(facts.get("settings"), dict):
        raise ValueError(f"{file} is damaged: it says no settings; choose another place")
    return facts


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
        "versions": package_versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2))


def package_versions() -> dict[str, str | None]:
    """Versions of what results depend on, by package."""
    return {name: _version(name) for name in PACKAGES}


def refuse_changes(
    place: Path,
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    free: Collection[str] = (),
) -> None:
    """Raise ValueError for settings that differ from those of an earlier run in a place.

    A setting that only one of the two runs has counts as None for the other.

    Args:
        place: Folder or file that holds the earlier run.
        before: Settings of the earlier run.
        settings: Settings now.
        free: Settings that may change.
    """
    names = [name for name in {**settings, **before} if name not in free]
    changes = [
        f"{name}: {before.get(name)!r} then, {settings.get(name)!r} now"
        for name in names
        if before.get(name) != settings.get(name)
    ]
    if changes:
        raise ValueError(
            f"{place} holds a run with other settings ({', '.join(changes)}); choose another place"
        )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
