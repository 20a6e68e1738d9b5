"""Tensors in safetensors files, by their headers: names, types and shapes, without their bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rerankfleet.shared.errors import ModelRefused

_FP8 = ("F8_E4M3", "F8_E5M2")
_HEADER_BYTES_MAX = 100 << 20


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor is, and what it is."""

    file: Path
    dtype: str
    """as the format writes it: BF16, F32, F8_E4M3, ..."""
    shape: tuple[int, ...]

    @property
    def is_fp8(self) -> bool:
        """Whether its numbers have 8 bits, and so scales beside them."""
        return self.dtype in _FP8


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file: a length in 8 bytes, JSON, then the bytes of all tensors.

    Raises ModelRefused for a file that is damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _HEADER_BYTES_MAX)))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if path.stat().st_size != 8 + size + end:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, not {8 + size + end:,}")
        return {
            name: StoredTensor(path, str(entry["dtype"]), tuple(map(int, entry["shape"])))
            for name, entry in entries.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ModelRefused(
            f"the weights in {path} cannot be loaded: {error}", hint="download the model again"
        ) from error
