"""Does the memory of `rerank score` stay constant over a very large file?

    python benchmarks/memory.py                   a million short pairs; some minutes
    python benchmarks/memory.py --pairs 20000     a smoke test

A tiny random model, ten short documents per query. Resident memory of the process is sampled
twice a second; the result is how much it grows from the first tenth of the run to its end.

Prints a line per tenth, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import TINY, build_model, passages, surroundings
from text import RERANK, in_own_process

DOCUMENTS = 10
DOCUMENT_WORDS = 8
SAMPLE_S = 0.5
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def write_requests(path: Path, pairs: int) -> None:
    """Write a file of this many pairs, drawn one by one."""
    rng, prose = random.Random(3), passages()

    def words(count: int) -> str:
        return " ".join(rng.choice(prose).split()[:count])

    with path.open("w") as out:
        for number in range(-(-pairs // DOCUMENTS)):
            documents = [words(DOCUMENT_WORDS) for _ in range(DOCUMENTS)]
            line = {"id": number, "query": words(6), "documents": documents}
            out.write(json.dumps(line) + "\n")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def watch(command: Sequence[str]) -> list[int]:
    """Run a command; samples of its resident bytes."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    samples = []
    while process.poll() is None:
        if resident := resident_bytes(process.pid):
            samples.append(resident)
        time.sleep(SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"rerank score failed: {process.stderr.read() if process.stderr else ''}")
    return samples


def tenths(samples: Sequence[int]) -> list[int]:
    """Peak memory in each tenth of a run."""
    edges = [len(samples) * tenth // 10 for tenth in range(11)]
    return [max(samples[a:b], default=0) for a, b in pairwise(edges)]


def measure(pairs: int, folder: Path) -> dict[str, Any]:
    """Score this many pairs with a tiny model."""
    model, source, output = folder / "model", folder / "in.jsonl", folder / "out.jsonl"
    in_own_process(build_model, model, TINY)
    write_requests(source, pairs)
    samples = watch([RERANK, "score", str(source), "-o", str(output), "--model", str(model)])
    manifest = json.loads(Path(f"{output}.manifest.json").read_text())
    peaks = tenths(samples)
    return {
        "pairs": manifest["scored"],
        "errors": manifest["errors"],
        "seconds": manifest["seconds"],
        "pairs_per_s": manifest["pairs_per_s"],
        "input_bytes": source.stat().st_size,
        "output_bytes": output.stat().st_size,
        "peak_bytes_by_tenth": peaks,
        "grown_bytes": peaks[-1] - peaks[1],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    before = surroundings()
    with tempfile.TemporaryDirectory(prefix="rerank-bench-") as folder:
        results = measure(options.pairs, Path(folder))
    for tenth, peak in enumerate(results["peak_bytes_by_tenth"], 1):
        print(f"{tenth * 10:4} % of the time: at most {peak / 2**20:7.1f} MiB")
    print(json.dumps({"benchmark": "memory", **before, **results}))


if __name__ == "__main__":
    main()
