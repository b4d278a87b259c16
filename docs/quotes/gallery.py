"""The gallery of figures: a small picture of each, what it shows, and what makes it.

    python -m docs.quotes.gallery        # draws the pictures of docs/_static/gallery anew

What a figure shows is the first sentence of its module.
"""

import io
import shlex
from importlib import import_module
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from tqdm.auto import tqdm

from docs.quotes.commands import Run, in_words, runs
from figures.__main__ import all_figures
from figures.results import MissingResultsError
from figures.style import style
from step_saliency.storage.files import make_folder, replacing

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "_static" / "gallery"
WIDTH, PER_INCH, COLOURS = 480, 110, 48
MOST_BYTES = 400_000
BENCHMARKS = "benchmarks"
FOLDERS: dict[str, tuple[str, ...]] = {
    "token_and_step": ("example_traces",),
    "shallow_and_deep": ("example_traces",),
    "depth_curves": ("depth_curves",),
    "mediation_around": ("mediation_around",),
    "mediation_prediction": ("mediation",),
    "gold_graph": ("gold_graph",),
    "faithfulness": ("faithfulness", "faithfulness_smollm2", "faithfulness_qwen"),
    "faithfulness_curves": ("faithfulness", "faithfulness_smollm2"),
    "patching": ("patching", "patching_smollm2"),
    "patching_heads": ("patching", "patching_smollm2"),
    "patching_paths": ("patching", "patching_smollm2"),
    "ablation": ("ablation",),
    "ablation_matched": ("ablation_matched",),
    "ablation_table": ("ablation",),
    "layer_bands_table": ("ablation",),
    "dose_response": ("ablation",),
    "gold_loss": ("ablation", "ablation_smollm2"),
    "compute_matched": ("compute_matched",),
    "compute_matched_table": ("compute_matched",),
    "error_kinds": ("error_kinds",),
    "error_kinds_table": ("error_kinds",),
    "mediation_paths": ("mediation",),
    "mediation_blocking": ("mediation",),
    "mediation_answers": ("mediation",),
    "mediation_injection": ("mediation_injection",),
    "head_steering": ("head_steering",),
    "head_transfer": ("head_steering_transfer",),
    "granularity": ("granularity", "granularity_gsm8k"),
    "fork_points": ("fork_points",),
    "resampling": ("resampling",),
    "cost_over_length": (BENCHMARKS,),
}
"""Results folders that a figure reads where they are there, in the order of the page."""


def table_text() -> str:
    """One row a figure."""
    known = runs()
    head = ("picture", "what it shows", "commands", "minutes")
    rows = [_row(name, [known[one] for one in FOLDERS[name] if one in known]) for name in FOLDERS]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ("---",) * 4, *rows))


def _row(name: str, made_by: list[Run]) -> tuple[str, ...]:
    shows = f"**`{name}`** {first_sentence(name)}"
    commands = [run.line() for run in made_by]
    if FOLDERS[name] == (BENCHMARKS,):
        commands = ["python benchmarks/saliency.py"]
    if not commands:
        there = "no results of the bundled models; see [Test the diagnosis](howto/analyses.md)"
        return "-", shows, there, "-"
    drawn = shlex.join(["python", "-m", "figures", name])
    minutes = in_words(sum(run.minutes for run in made_by)) if made_by else "-"
    cell = "<br>".join(f"`{command}`" for command in (*commands, drawn))
    return f"![{name}](_static/gallery/{name}.png)", shows, cell, minutes


def first_sentence(name: str) -> str:
    """What the module of a figure says that it shows."""
    text = " ".join((import_module(f"figures.{name}").__doc__ or "").partition("\n\n")[0].split())
    return text.partition(" Results: ")[0]


def small(figure: Figure) -> bytes:
    """A picture of few bytes.

    Its colours are chosen to lie far apart, whatever their areas: by areas alone the two blues of a
    legend become one, or the grey of the text.
    """
    whole = io.BytesIO()
    with style():
        figure.savefig(whole, format="png", dpi=300)
    image = Image.open(whole).convert("RGB")
    width = min(WIDTH, round(PER_INCH * figure.get_figwidth()))
    size = (width, round(image.height * width / image.width))
    image = image.resize(size, Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    few = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    few.save(packed, "png", optimize=True)
    return packed.getvalue()


def main() -> None:
    """Draw all pictures whose results are committed.

    Raises:
        ValueError: they have too many bytes together.
    """
    pictures = {}
    for name, make in tqdm(all_figures().items()):
        try:
            pictures[name] = small(make(ROOT / "results")[0])
        except MissingResultsError:
            continue
    size = sum(map(len, pictures.values()))
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes of pictures; at most {MOST_BYTES:,} are kept")
    make_folder(PICTURES)
    for name, picture in pictures.items():
        with replacing(PICTURES / f"{name}.png") as part:
            part.write_bytes(picture)


def parts() -> dict[tuple[Path, str], str]:
    """What is written into pages, by page and name of the mark."""
    return {(PAGE, "gallery"): table_text()}


if __name__ == "__main__":
    main()
