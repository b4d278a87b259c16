"""Tables as parquet, whole or not at all."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from step_saliency.storage.files import replacing


class FrameWriter:
    """A parquet file that grows trace by trace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "FrameWriter":
        return self

    def write(self, frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table.cast(self.writer.schema))

    def __exit__(self, *_: object) -> None:
        if self.writer is None:
            pd.DataFrame().to_parquet(self.path)
        else:
            self.writer.close()


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as parquet, whole or not at all."""
    with replacing(path) as part:
        frame.to_parquet(part, index=False)
