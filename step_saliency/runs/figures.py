"""Figures of a results folder: step map and depth curves of each trace, where they are missing."""

from pathlib import Path

from tqdm.auto import tqdm

from step_saliency.diagnosis import diagnose
from step_saliency.plotting.style import png
from step_saliency.runs.folder import RunFolder
from step_saliency.saliency.result import StepSaliency
from step_saliency.storage.files import is_whole_png, make_folder, write_bytes


def draw_figures(
    run: Path, *, trace: str | None = None, limit: int | None = None, progress: bool = True
) -> list[Path]:
    """Draw the figures that a results folder lacks; broken off, the same call goes on.

    Args:
        run: Results folder of `step_saliency.runs.map_file.map_file`.
        trace: Id or file name of the one trace to draw; all by default.
        limit: Draw the first traces only, by file name.
        progress: Show a progress bar.

    Returns:
        The files drawn now.

    Raises:
        ValueError: there is no such run or trace, or its maps are missing or damaged, which are
            named.
        WriteError: a file cannot be written.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is below 1")
    folder = RunFolder.existing(run)
    folder.check_within("figures")
    names = folder.mapped_names() if trace is None else [folder.find(trace)]
    drawn: list[Path] = []
    for name in tqdm(names[:limit], unit="trace", desc="figures", disable=not progress):
        if not has_figures(folder, name):
            drawn += draw(folder, name, folder.whole_map(name))
    return drawn


def has_figures(folder: RunFolder, name: str) -> bool:
    """Whether both figures of a trace are there, not cut short and not older than its map."""
    files = folder.figures(name)
    if not all(map(is_whole_png, files)):
        return False
    drawn_from = folder.map(name).stat().st_mtime_ns if folder.map(name).exists() else 0
    return all(file.stat().st_mtime_ns >= drawn_from for file in files)


def draw(folder: RunFolder, name: str, sal: StepSaliency) -> tuple[Path, Path]:
    """Draw both figures of a trace."""
    step_map, depth = folder.figures(name)
    make_folder(step_map.parent)
    write_bytes(step_map, png(sal.plot()))
    write_bytes(depth, png(diagnose(sal).plot()))
    return step_map, depth
