"""Small shards, images in a bucket, and listings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerankfleet.producer.client import Client
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage import buckets
from tests.support.fleet import worker_row


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Shards of five pairs, four open at the most, and a bucket that may be read."""
    small = {
        "shard_pairs_max": 5,
        "window_min": 4,
        "max_line_bytes": 500_000,
        "allowed_buckets": ("pairs",),
    }
    return settings.model_copy(update=small)


@pytest.fixture
def api(settings: Settings, fleet) -> Client:
    """A client of a fleet that serves one model."""
    fleet.beat(worker_row())
    return Client(settings)


@pytest.fixture
def bucket(s3, monkeypatch) -> list[str]:
    """Twenty-three images in folders of a bucket, and other things; listed four keys a page."""
    monkeypatch.setattr(buckets, "KEYS_PER_PAGE", 4)
    keys = [f"shop/{n % 3}/{n:02}.{'JPG' if n % 2 else 'png'}" for n in range(23)]
    for key in [*keys, "shop/", "shop/readme.txt", "shop/1/notes.json", "other/x.png"]:
        s3.put_object(Bucket="pairs", Key=key, Body=b"x")
    return [f"s3://pairs/{key}" for key in sorted(keys)]


@pytest.fixture
def listing(tmp_path) -> Callable[..., Path]:
    """`listing("a.png", {"id": 1}, b"raw")` writes a listing, a line each."""

    def write(*lines: Any, name: str = "images.txt") -> Path:
        path = tmp_path / name
        encoded = [line if isinstance(line, bytes | str) else json.dumps(line) for line in lines]
        data = [
            line.encode(errors="surrogateescape") if isinstance(line, str) else line
            for line in encoded
        ]
        path.write_bytes(b"".join(line + b"\n" for line in data))
        return path

    return write
