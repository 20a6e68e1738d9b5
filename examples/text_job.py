"""Submit the example as a job, wait for it, and print the best passage for every question.

A fleet with a worker for `pocket-text` has to be running, for instance `rerank up`. Then, from the
root of the repository:

    python examples/text_job.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rerankfleet import Client

INPUT = Path(__file__).with_name("python-faq.jsonl")


def describe(request: dict[str, Any], result: dict[str, Any]) -> str:
    """The question, its best passage, and `+` where the FAQ itself answers with that passage."""
    if not result["results"]:
        return f"{request['query']}\n  no score: {result['errors']}"
    best = max(result["results"], key=lambda entry: entry["margin"])
    document = request["documents"][best["index"]]
    mark = "+" if document["id"] in request["metadata"]["relevant"] else "-"
    return f"{request['query']}\n  {mark} {best['relevance_score']:.3f}  {document['text'][:120]}"


def main() -> None:
    with INPUT.open(encoding="utf-8") as lines:
        requests = {request["id"]: request for request in map(json.loads, lines)}
    client = Client()
    job = client.submit(str(INPUT), model="pocket-text")
    client.wait(job)
    for result in client.results(job):
        print(describe(requests[result["id"]], result))


if __name__ == "__main__":
    main()
