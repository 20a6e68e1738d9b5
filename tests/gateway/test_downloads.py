"""A job's output as files that are downloaded: listed, streamed, and no others."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyarrow import parquet

from rerankfleet.producer.gateway import downloads
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.storage.objects import Objects
from tests.support.fleet import Worker, worker_row
from tests.support.gateway import working_fleet
from tests.support.wait import wait_until

NAME = 'Mönday "1"/..'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that may be read and written."""
    path = tmp_path / "allowed"
    path.mkdir()
    return path


def finished(http: httpx.Client, **body: Any) -> str:
    """Make a job and wait for its end. Returns its path."""
    answer = http.post("/v1/jobs", json={"name": NAME, **body})
    assert answer.status_code == 201, answer.text
    job = f"/v1/jobs/{answer.json()['id']}"
    wait_until(lambda: http.get(job).json()["state"] == "done", 30, "the job is done")
    return job


def listed(http: httpx.Client, job: str, **query: Any) -> list[tuple[str, int | None]]:
    """The files of a job as they are listed."""
    listing = http.get(f"{job}/files", params=query).json()
    return [(file["name"], file["rows"]) for file in listing["data"]]


def test_the_files_of_a_job_of_lines(http, working, folder):
    # given a finished job in which something failed
    source = folder / "in.jsonl"
    lines = [{"id": n, "query": "q", "documents": ["a", 5]} for n in range(3)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = file_uri(folder.parent / "outputs" / "out.jsonl")
    job = finished(http, input=file_uri(source), output=output)
    # then its results, its manifest and what failed can be had
    assert listed(http, job) == [
        ("results.jsonl", 3),
        ("manifest.json", None),
        ("errors.jsonl", None),
    ]
    results = http.get(f"{job}/files/results.jsonl")
    assert results.content == (folder.parent / "outputs" / "out.jsonl").read_bytes()
    assert results.headers["content-type"] == "application/x-ndjson"
    assert results.headers["content-length"] == str(len(results.content))
    assert http.get(f"{job}/files/manifest.json").json()["lines"] == 3
    failed = http.get(f"{job}/files/errors.jsonl").text.splitlines()
    assert [json.loads(line)["id"] for line in failed] == [0, 1, 2]
    # under a name that is safe in shells and headers
    saved_as = 'attachment; filename="M-nday-1-results.jsonl"'
    assert results.headers["content-disposition"] == saved_as


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_the_parts_of_a_catalog(http, control, folder, format):
    # given a catalog whose output is in parts
    listing = folder / "a.txt"
    listing.write_text("".join(f"s3://shop/{n}.jpg\n" for n in range(3)))
    with working_fleet(control, Worker(control, fails="1.jpg")):
        catalog = {"queries": ["red", "blue"], "format": format}
        job = finished(http, input=file_uri(listing), catalog=catalog, top_n=1)
    # then its ranking, manifest and errors come before its parts
    names = [name for name, _ in listed(http, job)]
    assert names[:3] == ["ranking.jsonl", "manifest.json", "errors.jsonl"]
    parts = [(name, rows) for name, rows in listed(http, job) if name.startswith("part-")]
    assert sum(rows or 0 for _, rows in parts) == 6
    # and each part is what it says
    data = http.get(f"{job}/files/{parts[0][0]}")
    if format == "parquet":
        assert parts[0][0].endswith(".parquet")
        assert parquet.read_table(io.BytesIO(data.content)).num_rows == parts[0][1]
    else:
        assert len(data.text.splitlines()) == parts[0][1]
    assert len(http.get(f"{job}/files/errors.jsonl").text.splitlines()) == 2
    # and of many no more are listed than were requested
    listing = http.get(f"{job}/files", params={"limit": 2}).json()
    assert (len(listing["data"]), listing["count"]) == (2, len(names))


def test_a_file_is_streamed_in_blocks(http, working, folder, monkeypatch):
    # given an output of many blocks
    source = folder / "in.jsonl"
    source.write_text('{"query": "q", "documents": ["a"]}\n' * 50)
    job = finished(http, input=file_uri(source))
    sizes: list[int] = []

    class Watched(io.RawIOBase):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def read(self, size: int = -1) -> bytes:
            sizes.append(size)
            return self.stream.read(size)

    opened = Objects.open
    monkeypatch.setattr(downloads, "COPY_BYTES", 1000)
    monkeypatch.setattr(Objects, "open", lambda self, uri: Watched(opened(self, uri)))
    # when it is downloaded, then it is never whole in memory
    answer = http.get(f"{job}/files/results.jsonl")
    assert len(answer.text.splitlines()) == 50
    assert set(sizes[1:]) == {1000}  # the first is the manifest
    assert len(sizes) > 5


def test_nothing_else_can_be_had(http, working, folder):
    (folder / "secret.txt").write_text("secret")
    source = folder / "in.jsonl"
    source.write_text('{"query": "q", "documents": ["a"]}\n')
    job = finished(
        http, input=file_uri(source), output=file_uri(folder.parent / "outputs" / "out.jsonl")
    )
    for name in ("secret.txt", "out.jsonl", "in.jsonl", "part-000000000000.jsonl"):
        answer = http.get(f"{job}/files/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_file")
    for name in ("..%2Fsecret.txt", "%2e%2e", ".hidden", "a%00b", "%2Fetc%2Fpasswd"):
        assert http.get(f"{job}/files/{name}").status_code in (404, 422), name


def test_before_its_end_a_job_has_no_files(http, fleet, folder):
    fleet.beat(worker_row())
    source = folder / "in.jsonl"
    source.write_text('{"query": "q", "documents": ["a"]}\n')
    job = f"/v1/jobs/{http.post('/v1/jobs', json={'input': file_uri(source)}).json()['id']}"
    assert listed(http, job) == []
    early = http.get(f"{job}/files/results.jsonl")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "wrong_state")
    assert http.get("/v1/jobs/none/files").status_code == 404
    assert http.get("/v1/jobs/none/files/results.jsonl").status_code == 404
