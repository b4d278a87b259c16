"""Maps as short codes, so that many fit on a page.

Entries are rounded. A map is stored as its lower triangle, row by row, in codes on a log scale:

    0 = undefined,  1 = zero,  otherwise  top * 10 ** (-decades * (largest - code) / (largest - 2))

with `top` the map's largest entry, `largest` the largest code and `decades` how far down the
smallest positive entry lies. Codes of 16 bits keep every entry to 0.2% or better; codes of 8 bits
over six decades keep them to 3%, and smaller entries read as the smallest code.
"""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt
from torch import Tensor

COARSE_DECADES = 6.0
"""Range of a map in codes of 8 bits, in powers of ten."""


@dataclass(frozen=True)
class PackedMaps:
    """Maps in codes (module docstring).

    Attributes:
        codes: Defined entries and zeros of the lower triangles, row by row.
        top: Largest entry of each map.
        decades: Range of each map's scale, in powers of ten.
    """

    codes: UInt[np.ndarray, "map entry"]
    top: Float[np.ndarray, "map"]
    decades: Float[np.ndarray, "map"]

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 8 * self.codes.itemsize

    def values(self) -> Float[np.ndarray, "map entry"]:
        """The entries that a reader of the page gets; NaN where undefined."""
        largest = float(np.iinfo(self.codes.dtype).max)
        below = self.decades[:, None] * (largest - self.codes) / (largest - 2)
        values = self.top[:, None] * 10.0**-below
        return np.where(self.codes == 0, np.nan, np.where(self.codes == 1, 0.0, values))

    def to_json(self) -> dict[str, Any]:
        """The maps as JSON values, codes in base64 with the low byte first."""
        data = self.codes.astype(self.codes.dtype.newbyteorder("<")).tobytes()
        return {
            "bits": self.bits,
            "codes": base64.b64encode(data).decode(),
            "top": self.top.tolist(),
            "decades": self.decades.tolist(),
        }


def pack_maps(
    maps: Float[Tensor, "map step step"], defined: Bool[Tensor, "*map step step"], *, bits: int
) -> PackedMaps:
    """Round maps to codes.

    Args:
        maps: Non-negative maps.
        defined: Entries that mean something, of all maps or of each.
        bits: 16 or 8.

    Raises:
        ValueError: an entry is negative or not finite.
    """
    if not bool(maps.isfinite().all()) or bool((maps < 0).any()):
        raise ValueError("the maps hold negative or non-finite entries, which the page cannot show")
    rows, columns = np.tril_indices(maps.shape[-1])
    values = maps.detach().double().cpu().numpy()[:, rows, columns]
    positive = np.where(values > 0, values, np.nan)
    some = ~np.isnan(positive).all(axis=1)
    top, low = np.zeros(len(values)), np.ones(len(values))
    top[some], low[some] = np.nanmax(positive[some], axis=1), np.nanmin(positive[some], axis=1)
    decades = np.where(some, np.log10(np.where(some, top, 1.0) / low), 0.0)
    if bits == 8:
        decades = np.minimum(decades, COARSE_DECADES)
    dtype = np.uint8 if bits == 8 else np.uint16
    largest = np.iinfo(dtype).max
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.log10(top[:, None] / positive) / np.where(decades > 0, decades, 1.0)[:, None]
    codes = np.rint(largest - np.clip(below, 0, 1) * (largest - 2))
    codes = np.where(np.isnan(codes), 1, codes) * defined.cpu().numpy()[..., rows, columns]
    return PackedMaps(codes.astype(dtype), top, decades)


def encoded_length(n_bytes: int) -> int:
    """Length of so many bytes in base64."""
    return -(-n_bytes // 3) * 4
