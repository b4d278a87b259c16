"""What did the edits do? Counters per edit, layer and head.

    rows_seen        attention rows (query positions) to which the edit applies
    rows_shifted     rows seen that it changed
    infeasible       rows seen, changed or not, whose constraint had no solution and was capped; of
                     a `HeadRedirect` to all mass (1), all rows that have less
    mass_before      mean over rows seen of the attention on the bridge
    mass_after       the same after the edit
    kl               mean over rows shifted of KL(after || before), in nats
    total_variation  mean over rows shifted of half of the sum of |after - before|: mass that moved
    injections       vectors added
    injected_norm    mean over injections of the added vector's norm in the residual stream,
                     relative to the norm of the residual there; where a model normalises what
                     attention returns (Gemma 2 and 3, OLMo 2), before it is normalised

``kl``, ``total_variation`` and ``injected_norm`` are doses: how far what is moved is moved. What an
edit does beyond its dose shows only against a placebo of the same dose (`matching`).

Counted on the device and read when the table is asked for, so that decoding does not wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

Counter = Literal[
    "rows_seen",
    "rows_shifted",
    "infeasible",
    "mass_before",
    "mass_after",
    "kl",
    "total_variation",
    "injections",
    "injected_norm",
]
COUNTERS: tuple[Counter, ...] = get_args(Counter)
_MEAN_OVER = {
    "mass_before": "rows_seen",
    "mass_after": "rows_seen",
    "kl": "rows_shifted",
    "total_variation": "rows_shifted",
    "injected_norm": "injections",
}


@dataclass(eq=False)
class Effects:
    """Sums per edit and layer, each ``head`` or, for what has no heads, a single number."""

    _sums: dict[tuple[int, str], dict[str, Float[Tensor, "..."]]] = field(default_factory=dict)

    def add(self, edit: str, layer: int, **counts: Tensor | float | int) -> None:
        """Add to the counters of an edit in a layer.

        Args:
            edit: Name of the edit.
            layer: Layer.
            counts: Sums by counter, each of shape ``head`` or a single number. Counters of means
                take the sum over what they are a mean of.

        Raises:
            ValueError: an unknown counter.
        """
        unknown = sorted(set(counts) - set(COUNTERS))
        if unknown:
            raise ValueError(f"unknown counters {unknown}; there are {', '.join(COUNTERS)}")
        sums = self._sums.setdefault((layer, edit), {})
        for name, count in counts.items():
            value = torch.as_tensor(count).detach().to(torch.float64)
            sums[name] = value if name not in sums else sums[name] + value

    def include(self, other: "Effects") -> None:
        """Add the counters of another run."""
        for (layer, edit), sums in other._sums.items():
            self.add(edit, layer, **sums)

    @property
    def sums(self) -> Mapping[tuple[int, str], Mapping[str, Float[Tensor, "..."]]]:
        """Sums by layer and edit, then by counter: what `add` was given."""
        return MappingProxyType(self._sums)

    def to_frame(self) -> pd.DataFrame:
        """One row per layer, head and edit: layer, head, edit and the counters.

        ``head`` is missing where the edit acts on all heads together, a mean where nothing was
        seen, a counter where the edit has none such.
        """
        rows: list[dict[str, float | int | str | None]] = []
        for (layer, edit), sums in self._sums.items():
            rows += _rows(layer, edit, sums)
        typed = _typed(pd.DataFrame(rows, columns=["layer", "head", "edit", *COUNTERS]))
        return typed.sort_values(["layer", "edit", "head"], ignore_index=True)

    def doses(self) -> pd.DataFrame:
        """One row per edit, over all layers and heads: edit and the counters."""
        of_edit: dict[str, dict[str, Tensor]] = {}
        for (_, edit), sums in self._sums.items():
            totals = of_edit.setdefault(edit, {})
            for name, value in sums.items():
                totals[name] = totals.get(name, 0) + value.cpu().sum()
        rows = [row for edit, totals in of_edit.items() for row in _rows(0, edit, totals)]
        return _typed(pd.DataFrame(rows, columns=["edit", *COUNTERS]))

    def __repr__(self) -> str:
        if not self._sums:
            return "Effects(no edit acted)"
        doses = self.doses().dropna(axis="columns", how="all")
        table = doses.to_string(index=False, na_rep="", float_format="{:.3g}".format)
        return f"Effects, over layers and heads\n{table}"

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(index=False, na_rep="", float_format="{:.3g}".format))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    means = dict.fromkeys(_MEAN_OVER, "float64")
    whole = {name: "Int64" for name in frame.columns if name != "edit" and name not in means}
    return frame.astype({**whole, **means})


def _rows(
    layer: int, edit: str, sums: dict[str, Float[Tensor, "..."]]
) -> list[dict[str, float | int | str | None]]:
    by_head = {name: value.cpu() for name, value in sums.items()}
    n_heads = max((value.numel() for value in by_head.values() if value.ndim), default=0)
    rows: list[dict[str, float | int | str | None]] = []
    for head in range(n_heads) if n_heads else [None]:
        row: dict[str, float | int | str | None] = {"layer": layer, "head": head, "edit": edit}
        for name, value in by_head.items():
            row[name] = float(value[head] if value.ndim else value)
        for name, over in _MEAN_OVER.items():
            if name in row:
                count = float(row.get(over) or 0)
                row[name] = float(row[name] or 0) / count if count else float("nan")
        rows.append(row)
    return rows


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names of edits with a number from the second of its kind on, so that counters stay apart."""
    places = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [n if at == 1 else f"{n}#{at}" for n, at in zip(names, places, strict=True)]
