"""The commands that made the results, with the minutes that they took, from the manifests.

Minutes are of one process: what all units took together, or the whole run where that is more (a run
that was broken off says of its last part alone how long it was). The machine had two cores and was
not always free.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
HOWTO = ROOT / "docs" / "howto"
MODELS = ("reasoner", "reporter", "smollm2-135m-instruct")
"""Models that are there without a hub."""
SELECTION = (
    "ablation",
    "ablation_matched",
    "ablation_draws",
    "faithfulness",
    "mediation_around",
    "mediation_aggregates",
    "head_gradient",
    "compute_matched_t06",
    "rivals_smollm2",
)
"""Results whose commands stand in the how-to; all of them stand on a page of their own."""
_PLACE = {"--out": 1, "--workers": 1, "--ray": 1, "--no-progress": 0}
"""Options that no result depends on, with the number of their values."""


@dataclass(frozen=True)
class Run:
    """A run that the repository has the results of.

    Attributes:
        name: Of its folder.
        command: What was typed, without what no result depends on.
        minutes: Of one process.
        model: Name of the model.
    """

    name: str
    command: tuple[str, ...]
    minutes: float
    model: str

    def line(self) -> str:
        """The command into a folder of its own, so that the committed tables stay as they are."""
        return shlex.join([*self.command, "--out", f"runs/{self.name}"])


def runs(results: Path = RESULTS) -> dict[str, Run]:
    """Finished runs of models that are there without a hub, by the name of their folder."""
    found = {}
    for file in sorted(results.glob("*/manifest.json")):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        model = manifest["settings"].get("model", MODELS[0])
        if manifest["finished"] and model in MODELS:
            name = file.parent.name
            command = tuple(_without_place(shlex.split(manifest["command"])))
            found[name] = Run(name, command, minutes(manifest), model)
    return found


def minutes(manifest: Mapping[str, Any]) -> float:
    """Minutes of one process."""
    return float(max(manifest["unit_seconds"], manifest["seconds"])) / 60


def in_words(number: float) -> str:
    """``1 minute``, ``46 minutes``, ``1.3 hours``."""
    if number >= 90:
        return f"{number / 60:.1f} hours"
    whole = max(1, round(number))
    return f"{whole} minute{'s' * (whole > 1)}"


def block(shown: Sequence[Run]) -> str:
    """A console block of commands, each below its minutes."""
    lines = [line for run in shown for line in (f"# {in_words(run.minutes)}", f"$ {run.line()}")]
    return "\n".join(["<!-- needs: minutes -->", "```console", *lines, "```", ""])


def _without_place(words: Sequence[str]) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        if word not in _PLACE:
            yield word
        for _ in range(_PLACE.get(word, 0)):
            next(rest)


def parts(results: Path = RESULTS) -> dict[tuple[Path, str], str]:
    """What is written into pages, by page and name of the mark."""
    known = runs(results)
    texts = {(HOWTO / "analyses.md", "commands"): block([known[name] for name in SELECTION])}
    for model in MODELS:
        of_model = [run for run in known.values() if run.model == model]
        texts[HOWTO / "rerun.md", model] = block(of_model)
    return texts
