"""What a results folder says: lock-in and decay by layer, and what sets error traces apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from step_saliency.diagnosis import Bands, Diagnosis, compare, diagnose
from step_saliency.options import Draws
from step_saliency.runs.folder import RunFolder
from step_saliency.storage.tables import write_frame

INDICES = ("lock_in_index", "decay_index")
LAYER_METRICS = ("lock_in", "decay")


@dataclass(frozen=True)
class Overview:
    """Tables over all traces of a folder.

    Attributes:
        folder: The results folder.
        bands: Layers of the bands.
        n_traces: Traces, correct traces and error traces.
        by_layer: Mean over traces: ``layer, metric, estimate, n``.
        comparison: Error against correct traces of the same problems, as `compare` gives it; None
            where no problem has both.
        missing: Why there is no comparison.
        n_left_out: Maps in the folder that are not counted: their rows are no longer in the input.
        reasons: Why the first trace has no lock-in or decay, where none has.
    """

    folder: Path
    bands: Bands
    n_traces: tuple[int, int, int]
    by_layer: pd.DataFrame
    comparison: pd.DataFrame | None
    missing: str | None
    n_left_out: int = 0
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        total, correct, wrong = self.n_traces
        unknown = total - correct - wrong
        known = f"{correct} correct, {wrong} wrong, {unknown} of unknown correctness"
        counts = f"{total} traces: {known}"
        if self.n_left_out:
            counts += f"; {self.n_left_out} maps of an earlier input are not counted"
        return "\n\n".join([counts, self._layers(), self._compared()])

    def _layers(self) -> str:
        wide = self.by_layer.pivot(index="layer", columns="metric", values="estimate")
        wide = wide.reindex(columns=sorted(LAYER_METRICS))
        wide.insert(0, "band", [self.bands.of(int(layer)) or "" for layer in wide.index])
        wide.columns.name = None
        return (
            "means over traces\n"
            "lock_in: share of a thinking step's row on itself and the step before,\n"
            "         in excess of a uniform row\n"
            "decay:   share of a summary step's row on the thinking steps\n"
            + "".join(f"no {name} in any trace: {why}\n" for name, why in self.reasons.items())
            + wide.to_string(float_format="{:+.3f}".format, na_rep="-")
        )

    def _compared(self) -> str:
        if self.comparison is None:
            return f"correct against error traces: {self.missing}"
        shown = self.comparison[self.comparison["metric"].isin(INDICES)]
        columns = ["metric", "control", "estimate", "lower", "upper", "n", "p_value", "auroc"]
        return (
            "error minus correct traces of the same problem\n"
            f"lower, upper: {Draws().confidence:.0%} bootstrap by problem; p_value: permutation "
            "within\nproblems; n: problems; auroc: how often the error trace has more, 0.5 by "
            "chance\n"
            + shown[columns].to_string(index=False, float_format="{:.3f}".format, na_rep="-")
        )


def overview(
    folder: Path, *, bands: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> Overview:
    """Diagnose every map of a results folder; writes its diagnosis and comparison tables.

    Args:
        folder: Results folder of `step_saliency.runs.map_file.map_file`.
        bands: Layers by band, as for `diagnose`.
        seed: Of the resampling.

    Raises:
        ValueError: the folder holds no maps, or some are damaged, which are named.
        WriteError: a table cannot be written.
    """
    run = RunFolder.existing(folder)
    diagnoses = [diagnose(sal, bands=bands) for sal in run.all_maps()]
    frame = pd.concat([diagnosis.to_frame() for diagnosis in diagnoses], ignore_index=True)
    write_frame(run.table("diagnosis"), frame)
    comparison, missing = _compare(diagnoses, seed)
    if comparison is not None:
        write_frame(run.table("comparison"), comparison)
    correct = [diagnosis.is_correct for diagnosis in diagnoses]
    return Overview(
        folder=folder,
        bands=diagnoses[0].bands,
        n_traces=(len(diagnoses), correct.count(True), correct.count(False)),
        by_layer=_by_layer(frame),
        comparison=comparison,
        missing=missing,
        n_left_out=run.n_left_out(),
        reasons=_reasons(diagnoses),
    )


def _compare(diagnoses: Sequence[Diagnosis], seed: int) -> tuple[pd.DataFrame | None, str | None]:
    try:
        return compare(diagnoses, seed=seed), None
    except ValueError as error:
        return None, str(error)


def _reasons(diagnoses: Sequence[Diagnosis]) -> dict[str, str]:
    """Why a metric is missing, of those that no trace has in any layer."""
    return {
        metric: diagnoses[0].reasons[metric]
        for metric in LAYER_METRICS
        if all(getattr(one, metric).isnan().all() for one in diagnoses)
    }


def _by_layer(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[frame["metric"].isin(LAYER_METRICS) & frame["head"].isna()].dropna(
        subset=["value", "layer"]
    )
    means = rows.groupby(["layer", "metric"])["value"].agg(estimate="mean", n="count")
    return means.reset_index()
