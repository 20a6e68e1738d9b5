"""A small catalog: its queries and expected rows."""

from __future__ import annotations

from typing import Any

from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.calibration import relevance_score
from rerankfleet.shared.formats.manifest import Manifest, manifest_uri
from tests.support.fleet import Worker, margin_of, run

QUERIES = ["red chair", {"id": "blue", "text": "blue chair"}, {"image": "s3://pairs/query.png"}]

IDS = [1, "blue", 3]

NAMES = ["red chair", "blue chair", "s3://pairs/query.png"]

Row = dict[str, Any]


def do(control: Control, job_id: str, **options: Any) -> None:
    """Run a submitted job to its end."""
    control.hints.feed(job_id)
    run(control, Worker(control, **options))


def manifest(control: Control, job_id: str) -> Manifest:
    uri = manifest_uri(control.store.jobs.get(job_id).facts["output"])
    return Manifest.model_validate_json(control.objects.read(uri))


def expected(image: str, image_id: Any = None, line: int = 1) -> list[Row]:
    """The rows of one image, which stands in a line of the catalog."""
    margins = [margin_of(name, image) for name in NAMES]
    return [
        {
            "query_id": query,
            "image_id": image if image_id is None else image_id,
            "line": line,
            "margin": margin,
            "relevance_score": relevance_score(margin),
        }
        for query, margin in zip(IDS, margins, strict=True)
    ]


def all_expected(images: list[str]) -> list[Row]:
    return [row for line, image in enumerate(images, 1) for row in expected(image, line=line)]
