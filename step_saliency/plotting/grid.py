"""Rows and columns of a map as a picture: what each cell is, and what is written on the axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Int

from step_saliency.segment.regions import Region

_STRIDES = (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class Grid:
    """Rows and columns of a picture.

    Attributes:
        numbers: Number of each row and column in the trace (step or position), the first of its
            block.
        regions: Region of each.
        block: Steps or positions in a cell.
    """

    numbers: Int[np.ndarray, "cell"]
    regions: tuple[Region, ...]
    block: int = 1

    @classmethod
    def of_regions(cls, regions: Sequence[str]) -> "Grid":
        """A row and column for each of these regions, numbered from 0."""
        return cls(np.arange(len(regions)), tuple(Region(region) for region in regions))

    @property
    def runs(self) -> list[tuple[Region, int, int]]:
        """Regions in order, with the first cell of each and the one after its last."""
        runs, start = [], 0
        for region, cells in groupby(self.regions):
            stop = start + len(list(cells))
            runs.append((region, start, stop))
            start = stop
        return runs

    @property
    def borders(self) -> list[int]:
        """Cells at which a new region begins."""
        return [start for _, start, _ in self.runs[1:]]

    def ticks(self, most: int = 12) -> dict[int, int]:
        """Round numbers to write on the axes, at most ``most``, by the cell that holds each."""
        if not len(self.numbers):
            return {}
        first, last = int(self.numbers[0]), int(self.numbers[-1]) + self.block - 1
        stride = next((s for s in _STRIDES if last - first < s * most), last - first + 1)
        rounds = np.arange(-(-first // stride) * stride, last + 1, stride)
        cells = np.searchsorted(self.numbers, rounds, side="right") - 1
        held = rounds - self.numbers[cells] < self.block
        return dict(zip(cells[held].tolist(), rounds[held].tolist(), strict=True))
