"""Does the time of what a stranger sends grow with its size, or with the square of it?

    python benchmarks/worst_case.py                every kind of work at sizes n, 2n and 4n
    python benchmarks/worst_case.py --quick        small sizes: a smoke test

Each row is a step of a request's way, with an input made to be as dear as its size allows. Its
growth is the time at 4n over that at n: 4 is in proportion, 16 is by the square.

Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import base64
import gc
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from common import surroundings

from rerankfleet.producer.coordinator.cut import cut
from rerankfleet.producer.inputs.cursor import Cursor, Read
from rerankfleet.producer.shard_size import ShardSize
from rerankfleet.shared.addresses import canonical, safe_uri
from rerankfleet.shared.content.data_uris import WrongData, as_data_uri, carries_file, data_of
from rerankfleet.shared.content.image_headers import claimed_pixels
from rerankfleet.shared.content.outcomes import Scored, SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import RerankError
from rerankfleet.shared.formats.file_kinds import described
from rerankfleet.shared.formats.lines import parse_line, slice_of
from rerankfleet.shared.formats.output import merge, output_line
from rerankfleet.workers.batching.packing import Limit, Prices, plan
from rerankfleet.workers.batching.submissions import Item, Submission
from rerankfleet.workers.engine.locate import resolve_model
from rerankfleet.workers.pipeline import in_runs
from rerankfleet.workers.prompting.prompts import Prompt, PromptRequest
from rerankfleet.workers.prompting.text import TextPrompter
from rerankfleet.workers.prompting.tokens import Tokens
from rerankfleet.workers.prompting.vl import VLPrompter

SIZES = (1, 2, 4)
QUICK_SHARE = 50
"""A quick run has inputs smaller by this factor."""


@dataclass(frozen=True, slots=True)
class Case:
    """A step of the way: what it is, its size n and unit, the input of a size, and the work."""

    name: str
    size: int
    unit: str
    make: Callable[[int], Any]
    work: Callable[[Any], Any]


def request(documents: int, query: str = "q", text: str = "a") -> Slice:
    """A request of equal documents."""
    return slice_of(1, {"query": query, "documents": [text] * documents}, max_documents=documents)


def cut_small(piece: Slice) -> None:
    """Into shards as small as can be."""
    all_of(cut([Read(piece, 0)], Cursor(), ShardSize(1.0, 4096)))


def merged(outcomes: list[SliceOutcome]) -> Any:
    """The line of output of a request whose pairs were a shard each."""
    return output_line(merge(outcomes), None, top_n=None)


def outcomes(count: int) -> list[SliceOutcome]:
    """One for each pair."""
    return [SliceOutcome(line=1, results=[Scored(index=n, margin=0.0)]) for n in range(count)]


def waiting(pairs: int) -> list[Item]:
    """Pairs of one token each, of as many queries."""
    submission, prefix = Submission(pairs, None), Tokens.of([1])
    prompts = (Prompt(prefix, Tokens.of([n]), Tokens.of([n])) for n in range(pairs))
    return [Item(prompt, 0, submission, n, 0.0) for n, prompt in enumerate(prompts)]


def harmless(work: Callable[[str], Any]) -> Callable[[str], None]:
    """The work, refusals included."""

    def run(value: str) -> None:
        try:
            work(value)
        except (RerankError, WrongData):
            pass

    return run


def all_of(values: Iterable[Any]) -> None:
    """Everything that an iterator makes, none of it kept."""
    for _ in values:
        pass


def decode(uri: str) -> None:
    """The bytes of a data: URI, and the pixels that they claim."""
    claimed_pixels(data_of(as_data_uri(uri) or "", 1 << 30) or b"")


def cases() -> list[Case]:
    """Every step with a loop over something whose size a stranger chooses."""
    text, vl = (
        template(resolve_model(model))
        for template, model in ((TextPrompter, "pocket-text"), (VLPrompter, "pocket-vl"))
    )

    def encode(prompter: TextPrompter | VLPrompter, *texts: str) -> None:
        prompter.encode_all([PromptRequest.of(*texts[:1], texts[1:])], max_length=8192)

    def pictures(count: int) -> list[Slice]:
        documents = [{"image": f"s3://bucket/{n}.jpg"} for n in range(count)]
        return [slice_of(1, {"query": "q", "documents": documents}, max_documents=count)]

    def line(documents: list[Any]) -> bytes:
        return json.dumps({"query": "q", "documents": documents}).encode()

    def parse(raw: bytes) -> None:
        parse_line(1, raw, max_documents=1 << 30)

    def jpeg(size: int) -> str:
        return "data:;base64," + base64.b64encode(b"\xff\xd8" + b"\xff\xd0" * (size // 2)).decode()

    kb, mb = 1 << 10, 1 << 20
    return [
        Case("parse documents", 10_000, "documents", lambda n: line(["a"] * n), parse),
        Case("parse wrong documents", 10_000, "documents", lambda n: line([1] * n), parse),
        Case(
            "parse metadata",
            100_000,
            "fields",
            lambda n: line([{"text": "a", "metadata": {str(k): {} for k in range(n)}}]),
            parse,
        ),
        Case("parse images", 10_000, "images", lambda n: line([{"image": ["/a"] * n}]), parse),
        Case("cut documents", 10_000, "documents", request, cut_small),
        Case(
            "cut with a long query",
            2_500,
            "documents",
            lambda n: request(n, query="q" * (100 * n)),
            cut_small,
        ),
        Case("merge outcomes", 10_000, "pairs", outcomes, merged),
        Case("group into runs", 2_500, "images", pictures, lambda one: all_of(in_runs(one))),
        Case(
            "plan a pack",
            10_000,
            "pairs",
            waiting,
            lambda items: plan(items, Limit(1 << 30, 1024), Prices()),
        ),
        Case(
            "tokenise digits",
            250 * kb,
            "characters",
            lambda n: "7" * n,
            lambda t: encode(text, t, t),
        ),
        Case(
            "tokenise a word",
            250 * kb,
            "characters",
            lambda n: "ab" * n,
            lambda t: encode(text, t, t),
        ),
        Case(
            "tokenise white space",
            250 * kb,
            "characters",
            lambda n: "\n" + " " * n + "\n",
            lambda t: encode(text, t, t),
        ),
        Case(
            "cut a long query's prompts",
            250,
            "documents",
            lambda n: ["7" * (1000 * n), *["a"] * n],
            lambda texts: encode(vl, *texts),
        ),
        Case(
            "decode base64", mb, "characters", lambda n: f"data:;base64,{'A' * n}", harmless(decode)
        ),
        Case(
            "decode wrong base64",
            mb,
            "characters",
            lambda n: f"data:;base64,{' =' * (n // 2)}",
            harmless(decode),
        ),
        Case("read a JPEG's header", mb, "bytes", jpeg, harmless(decode)),
        Case(
            "tell base64 from a path",
            mb,
            "characters",
            lambda n: "iVBORw0KGg" + "A!" * n,
            carries_file,
        ),
        Case(
            "read an address",
            64 * kb,
            "characters",
            lambda n: "https://a/" + "%20 " * n,
            harmless(canonical),
        ),
        Case(
            "show an address",
            64 * kb,
            "characters",
            lambda n: "https://" + "a@:" * n,
            harmless(safe_uri),
        ),
        Case("name a file's kind", 64 * kb, "bytes", lambda n: b"<!-- ---" * (n // 8), described),
    ]


def seconds(case: Case, size: int, repeats: int) -> float:
    """The best time of the work."""
    times = []
    for _ in range(repeats):
        made = case.make(size)
        gc.collect()
        begin_s = time.perf_counter()
        case.work(made)
        times.append(time.perf_counter() - begin_s)
    return min(times)


def measure(case: Case, *, quick: bool) -> dict[str, Any]:
    """A row: the seconds at each size, and how they grow."""
    size = max(case.size // QUICK_SHARE, 1) if quick else case.size
    times = [seconds(case, size * factor, 1 if quick else 3) for factor in SIZES]
    return {
        "case": case.name,
        "unit": case.unit,
        "sizes": [size * factor for factor in SIZES],
        "seconds": [round(one, 5) for one in times],
        "growth": round(times[-1] / max(times[0], 1e-6), 1),
    }


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test")
    quick = parser.parse_args().quick
    print(f"{'':28}{'n':>12}  {'':12}{'n, s':>9}{'2n, s':>9}{'4n, s':>9}{'growth':>8}")
    rows = []
    for case in cases():
        row = measure(case, quick=quick)
        rows.append(row)
        times = "".join(f"{one:9.3f}" for one in row["seconds"])
        print(f"{row['case']:28}{row['sizes'][0]:12,}  {row['unit']:12}{times}{row['growth']:8.1f}")
    print(json.dumps({"benchmark": "worst_case", **surroundings(), "cases": rows}))


if __name__ == "__main__":
    main()
