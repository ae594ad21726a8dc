"""verl's columns as a Parquet file, written a batch of rows at a time."""

from __future__ import annotations

from typing import Any

from tenfold_shared import Missing

Record = dict[str, Any]
_BATCH = 256  # rows of a parquet row group


class Parquet:
    """Writes verl's columns to a stream, a row group for so many lines."""

    def __init__(self, path: str) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise Missing(f"{path}: pyarrow is not installed: pip install 'keychain-synth[parquet]'") from None
        text, texts = pyarrow.string(), pyarrow.list_(pyarrow.string())
        turn = pyarrow.struct([("role", text), ("content", text)])
        extra = pyarrow.struct(
            [("split", text), ("index", pyarrow.int64()), ("input_question", text), ("match", text), ("task", text)]
        )
        self.schema = pyarrow.schema([
            ("data_source", text), ("prompt", pyarrow.list_(turn)), ("ability", text),
            ("reward_model", pyarrow.struct([("style", text), ("ground_truth", texts)])), ("extra_info", extra),
        ])  # fmt: skip
        self._table, self._writer = pyarrow.Table.from_pylist, parquet.ParquetWriter
        self._waiting: list[Record] = []
        self._file: Any = None

    def open(self, stream: Any) -> Parquet:
        self._file = self._writer(stream, self.schema)
        return self

    def write(self, line: Record) -> None:
        self._waiting.append(line)
        if len(self._waiting) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(self._table(self._waiting, schema=self.schema))
            self._waiting = []

    def close(self) -> None:
        self._flush()
        self._file.close()
