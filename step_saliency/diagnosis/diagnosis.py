"""Shallow lock-in and deep decay of one trace, layer by layer.

Question: do the shallow layers look only at the step they are writing, and do the deep layers lose
the thinking while the summary is written? Formulas, assumptions and caveats:
`step_saliency.diagnosis.shares`.

    lock_in_index = mean of lock_in over the shallow layers
    decay_index   = mean of decay over the middle layers - mean of decay over the deep layers

so that both are larger the worse it is, while `decay` itself, a share that is kept, is smaller.
`lock_in_normalised`, `decay_normalised` and their indices are the same of the normalised excess
(share - u) / (1 - u) of each row (`step_saliency.diagnosis.rows`).

Beside them stand the block intensities of the method's authors: the mean entry of each block of
regions (summary -> summary and thinking -> thinking in their scripts) and the ratio of these two
(`block_ratio`, their "final heat anomaly"). Intensities have the unit of the map and grow with its
scale, so they compare traces of one model, objective and pooling only; shares have no unit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.diagnosis.frame import MetricRows, steps_table, traces_frame
from step_saliency.diagnosis.rows import StepRows
from step_saliency.diagnosis.shares import REGIONS
from step_saliency.models.bands import Band, Bands, spell_layers
from step_saliency.trace import Region

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Where the layers of a model look while one trace is written.

    Region axes are in the order question, thinking, summary. A value that cannot be had is NaN,
    with the reason in `reasons`.

    Attributes:
        layers: Model layer of each entry.
        n_layers: Number of layers that the model has.
        bands: Layers that count as shallow, middle and deep.
        lock_in: Excess share of the thinking rows on local steps, of the map averaged over heads.
        decay: Share of the summary rows on thinking steps, of the same map.
        shares: Share of each region's rows on each region.
        intensity: Mean entry of each block of regions, in the unit of the map.
        uniform_shares: `shares` of a map that prefers no position, over the same rows; of each
            layer where sliding windows make them see different keys or rows of a map are empty.
        uniform_intensity: `intensity` of such a map, up to its scale.
        rows: Lock-in and decay of each row, which `lock_in` and `decay` are the means of.
        lock_in_heads: Lock-in of each head's own map, if the maps are per head.
        decay_heads: Decay of each head's own map, if the maps are per head.
        reasons: Why a metric is NaN, by metric.
        trace_id: Name of the trace.
        problem: What groups traces: the trace's ``meta["problem"]``, else ``meta["problem_id"]``,
            else its question.
        is_correct: The trace's ``meta["is_correct"]``, if known.
        n_steps: Thinking and summary steps.
        n_tokens: Tokens in them.
    """

    layers: tuple[int, ...]
    n_layers: int
    bands: Bands
    lock_in: Float[Tensor, "layer"]
    decay: Float[Tensor, "layer"]
    shares: Float[Tensor, "layer query_region key_region"]
    intensity: Float[Tensor, "layer query_region key_region"]
    uniform_shares: Float[Tensor, "... query_region key_region"]
    uniform_intensity: Float[Tensor, "layer query_region key_region"]
    rows: StepRows
    lock_in_heads: Float[Tensor, "layer head"] | None
    decay_heads: Float[Tensor, "layer head"] | None
    reasons: Mapping[str, str]
    trace_id: str | None
    problem: str | None
    is_correct: bool | None
    n_steps: int
    n_tokens: int

    @property
    def shallow(self) -> tuple[int, ...]:
        """Layers of the shallow band."""
        return self.bands.shallow

    @property
    def deep(self) -> tuple[int, ...]:
        """Layers of the deep band."""
        return self.bands.deep

    @property
    def block_ratio(self) -> Float[Tensor, "layer"]:
        """Intensity of summary -> summary over thinking -> thinking (NaN where that is 0)."""
        return _block_ratio(self.intensity)

    @property
    def lock_in_index(self) -> float:
        """Mean lock-in of the shallow layers that were computed; NaN if none was."""
        return self._band_mean(self.lock_in, "shallow")

    @property
    def decay_index(self) -> float:
        """Decay lost from the middle to the deep layers (positive: the deep ones look less)."""
        return self._band_mean(self.decay, "middle") - self._band_mean(self.decay, "deep")

    @property
    def lock_in_normalised(self) -> Float[Tensor, "layer"]:
        """Mean over thinking rows of (share - u) / (1 - u) on local steps."""
        return self.rows.lock_in_normalised.nanmean(-1)

    @property
    def decay_normalised(self) -> Float[Tensor, "layer"]:
        """Mean over summary rows of (share - u) / (1 - u) on thinking steps."""
        return self.rows.decay_normalised.nanmean(-1)

    @property
    def lock_in_normalised_index(self) -> float:
        """`lock_in_index` of the normalised excess."""
        return self._band_mean(self.lock_in_normalised, "shallow")

    @property
    def decay_normalised_index(self) -> float:
        """`decay_index` of the normalised excess."""
        middle = self._band_mean(self.decay_normalised, "middle")
        return middle - self._band_mean(self.decay_normalised, "deep")

    @property
    def uniform_decays(self) -> Float[Tensor, "layer"]:
        """`decay` of a map that prefers no position, over the rows that count in each layer."""
        counts = ~self.rows.decay.isnan()
        return self.rows.uniform_thinking.where(counts, torch.nan).nanmean(-1)

    @property
    def uniform_decay(self) -> float:
        """Mean of `uniform_decays` over the layers that have a decay."""
        return float(self.uniform_decays.nanmean())

    def share(self, query: Region, key: Region) -> Float[Tensor, "layer"]:
        """Share of one region's rows that falls on another region."""
        return self.shares[:, REGIONS.index(query), REGIONS.index(key)]

    def uniform_share(self, query: Region, key: Region) -> Float[Tensor, "*layer"]:
        """`share` of a map that prefers no position, of all layers or of each."""
        return self.uniform_shares[..., REGIONS.index(query), REGIONS.index(key)]

    def to_frame(self) -> pd.DataFrame:
        """One row per metric, layer and head, and one per index.

        Returns:
            Columns ``trace, problem, is_correct, n_steps, n_tokens, metric, query_region,
            key_region, layer, head, band, value, uniform, reason``. Metrics: ``lock_in`` and
            ``decay`` (with rows per head where the maps have them, ``head`` missing otherwise),
            ``share`` and ``intensity`` of the pairs of regions, ``block_ratio``, ``lock_in_index``
            and ``decay_index`` (no layer; ``band`` is the one they are about), and
            ``lock_in_normalised``, ``decay_normalised`` with their indices. ``uniform`` is what a
            map that prefers no position gives (shares and decay: over the rows that the map has).
        """
        return diagnoses_frame([self])

    def step_frame(self) -> pd.DataFrame:
        """One row per metric, layer and step: the rows that the metrics are means of.

        Returns:
            Columns ``trace, problem, is_correct, n_steps, n_tokens, metric, layer, band,
            step_index, value`` for ``lock_in``, ``decay``, ``lock_in_normalised``,
            ``decay_normalised`` and the indices of each (no layer). ``step_index`` counts the
            thinking steps (lock-in) or summary steps (decay) from 0; rows without a value are left
            out.
        """
        bands = [self.bands.of(layer) for layer in self.layers]
        tables = []
        for metric, rows in self.rows.by_metric().items():
            index, band = self._index_rows(metric, rows)
            tables.append(steps_table(metric, rows, self.layers, bands))
            tables.append(steps_table(f"{metric}_index", index, [None], [band]))
        of_trace = self._of_trace()
        table = pd.concat(tables, ignore_index=True).assign(**of_trace)
        return table[[*of_trace, "metric", "layer", "band", "step_index", "value"]]

    def _index_rows(
        self, metric: str, rows: Float[Tensor, "layer step"]
    ) -> tuple[Float[Tensor, "1 step"], Band]:
        """Rows of the index of a metric, and the band that it is about."""
        if metric.startswith("lock_in"):
            return self._in_band(rows, "shallow").nanmean(0, keepdim=True), "shallow"
        middle, deep = (self._in_band(rows, band) for band in ("middle", "deep"))
        return (middle.nanmean(0) - deep.nanmean(0))[None], "deep"

    def _of_trace(self) -> dict[str, Any]:
        return {
            "trace": self.trace_id,
            "problem": self.problem,
            "is_correct": self.is_correct,
            "n_steps": self.n_steps,
            "n_tokens": self.n_tokens,
        }

    def _rows(self) -> list[dict[str, Any]]:
        rows = MetricRows(self.layers, self.bands)
        heads = {"lock_in": self.lock_in_heads, "decay": self.decay_heads}
        return [
            *rows.of_layers("lock_in", self.lock_in, 0.0),
            *rows.of_layers("decay", self.decay, self.uniform_decays.tolist()),
            *rows.of_layers(
                "block_ratio", self.block_ratio, _block_ratio(self.uniform_intensity).tolist()
            ),
            *(row for name, x in heads.items() if x is not None for row in rows.of_heads(name, x)),
            *rows.of_regions("share", self.shares, self.uniform_shares),
            *rows.of_regions("intensity", self.intensity),
            rows.of_index("lock_in_index", self.lock_in_index, "shallow"),
            rows.of_index("decay_index", self.decay_index, "deep"),
            *rows.of_layers("lock_in_normalised", self.lock_in_normalised, 0.0),
            *rows.of_layers("decay_normalised", self.decay_normalised, 0.0),
            rows.of_index("lock_in_normalised_index", self.lock_in_normalised_index, "shallow"),
            rows.of_index("decay_normalised_index", self.decay_normalised_index, "deep"),
        ]

    def plot(self) -> "matplotlib.figure.Figure":
        """Depth curves: where thinking and summary rows look, lock-in and decay by layer."""
        from step_saliency.plotting.depth import DepthCurve, depth_curves

        return depth_curves(
            self.layers,
            lock_in=DepthCurve(
                values=self.lock_in,
                index=self.lock_in_index,
                heads=self.lock_in_heads,
                reason=self.reasons.get("lock_in"),
            ),
            decay=DepthCurve(
                values=self.decay,
                index=self.decay_index,
                uniform=self.uniform_decays,
                heads=self.decay_heads,
                reason=self.reasons.get("decay"),
            ),
            shares=self.shares,
            uniform_shares=self.uniform_shares,
            bands=[("shallow", self.shallow), ("deep", self.deep)],
        )

    def __repr__(self) -> str:
        name = f"{self.trace_id!r}, " if self.trace_id else ""
        return (
            f"Diagnosis({name}{len(self.layers)} of {self.n_layers} layers, {self.n_steps} steps, "
            f"lock_in_index={self.lock_in_index:.3f} (layers {self._computed('shallow')}), "
            f"decay_index={self.decay_index:.3f} (layers {self._computed('middle')} against "
            f"{self._computed('deep')}))"
        )

    def _repr_html_(self) -> str:
        from step_saliency.plotting.html import card

        middle, deep = self._computed("middle"), self._computed("deep")
        facts = {
            "trace": self.trace_id or "(no id)",
            "answer": {None: "unknown", True: "correct", False: "error"}[self.is_correct],
            "steps": f"{self.n_steps} ({self.n_tokens} tokens) of thinking and summary",
            "lock-in index": f"{self.lock_in_index:.3f} (layers {self._computed('shallow')})",
            "decay index": f"{self.decay_index:.3f} (layers {middle} against {deep})",
        }
        missing = {f"no {metric}": reason for metric, reason in self.reasons.items()}
        return card("Diagnosis", facts | missing, self.plot(), name="depth curves")

    def _computed(self, band: Band) -> str:
        """The layers of a band that an index is about, and the whole band where maps lack some."""
        of_band = tuple(getattr(self.bands, band))
        computed = tuple(layer for layer in of_band if layer in self.layers)
        rest = "" if computed == of_band else f" of {spell_layers(of_band)}"
        return f"{spell_layers(computed)}{rest}"

    def _band_mean(self, values: Float[Tensor, "layer"], band: Band) -> float:
        return float(self._in_band(values, band).nanmean())

    def _in_band(
        self, values: Float[Tensor, "layer *step"], band: Band
    ) -> Float[Tensor, "of_band *step"]:
        inside = [self.bands.of(layer) == band for layer in self.layers]
        return values[torch.tensor(inside, dtype=torch.bool)]


def _block_ratio(
    intensity: Float[Tensor, "layer query_region key_region"],
) -> Float[Tensor, "layer"]:
    thinking, summary = REGIONS.index(Region.THINKING), REGIONS.index(Region.SUMMARY)
    within = intensity[:, thinking, thinking]
    return intensity[:, summary, summary] / within.where(within > 0, torch.nan)


def stacked(data: Iterable[Diagnosis] | pd.DataFrame, purpose: str) -> pd.DataFrame:
    """Diagnoses of many traces as one table; traces without a name get their number.

    Args:
        data: Diagnoses, or a table as it comes out.
        purpose: What it is for, for the error.

    Raises:
        ValueError: there are no diagnoses, or something else is given.
    """
    if isinstance(data, pd.DataFrame):
        return data
    listed = list(data) if isinstance(data, Iterable) else [data]
    strange = [one for one in listed if not isinstance(one, Diagnosis)]
    if strange or not isinstance(data, Iterable):
        what = type(strange[0] if strange else data).__name__
        raise ValueError(
            f"a {what} was given to {purpose}, where a list of diagnoses or their table is needed; "
            "diagnose(map) makes a diagnosis"
        )
    frames = [
        diagnosis.to_frame().assign(trace=diagnosis.trace_id or f"#{number}")
        for number, diagnosis in enumerate(listed)
    ]
    if not frames:
        raise ValueError(f"there are no diagnoses to {purpose}")
    return pd.concat(frames, ignore_index=True)


def diagnoses_frame(diagnoses: Iterable[Diagnosis]) -> pd.DataFrame:
    """`Diagnosis.to_frame` of several traces, one after another, in one table."""
    return traces_frame((one._rows(), one._of_trace(), one.reasons) for one in diagnoses)
