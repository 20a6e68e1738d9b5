"""The process that reads Parquet.

    python -m rerankfleet.producer.inputs.parquet_process NAME LINE_BYTES MEMORY_BYTES NEEDED...

It reads a file on stdin and writes its rows as lines of JSON to stdout; after exit status 1
the reason is on stderr. It is a separate process since a file may exhaust the memory or crash the
reader.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from typing import BinaryIO

from rerankfleet.producer.inputs.tables import Needed, columns_of, row_line
from rerankfleet.shared.errors import UsageError

BATCH_BYTES = 16 << 20
"""Size of the rows that are converted at a time, by the file's metadata."""
BATCH_ROWS = 4096


def lines(stream: BinaryIO, name: str, max_line_bytes: int, needed: Needed) -> Iterator[bytes]:
    """The rows as lines; only a few pages of a row group are in memory."""
    from pyarrow import parquet

    file = parquet.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
    names = file.schema_arrow.names
    places = columns_of(names, name, needed)
    columns = [names[at] for at in places.values()]
    rows = _rows_at_once(file.metadata, columns)
    for batch in file.iter_batches(rows, columns=columns, use_threads=False):
        for row in batch.to_pylist():
            cells = {column: row[names[at]] for column, at in places.items()}
            yield row_line(cells, max_line_bytes)


def _rows_at_once(metadata: object, columns: list[str]) -> int:
    """Rows per batch, for the row group with the widest rows."""
    widest = 1.0
    for number in range(metadata.num_row_groups):  # type: ignore[attr-defined]
        group = metadata.row_group(number)  # type: ignore[attr-defined]
        chunks = map(group.column, range(group.num_columns))
        size = sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema.partition(".")[0] in columns
        )
        widest = max(widest, size / max(group.num_rows, 1))
    return int(min(max(BATCH_BYTES / widest, 1), BATCH_ROWS))


def main(name: str, max_line_bytes: int, memory_bytes: int, needed: Needed) -> None:
    """Write the lines of stdin. Raises SystemExit with what is wrong."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    try:
        with open(0, "rb", closefd=False) as stream:
            for line in lines(stream, name, max_line_bytes, needed):
                sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except MemoryError:
        raise SystemExit(
            f"{name} takes more than {memory_bytes >> 20} MiB of memory to read: "
            "write it as JSON Lines, or with shorter cells"
        ) from None
    except UsageError as error:
        raise SystemExit(str(error)) from None
    except BrokenPipeError:  # the parent stopped reading
        sys.stderr.close()
    except Exception as error:  # pyarrow raises many kinds for damaged files
        why = " ".join(str(error).split())[:200]
        raise SystemExit(f"{name} is not Parquet, or damaged ({why})") from None


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), tuple(sys.argv[4:]))
