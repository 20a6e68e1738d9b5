"""Images through real processes: from S3, other hosts and the line itself to scores, with
everything that can be wrong with them."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import struct
import subprocess
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.drawn import drawn, encoded, png
from tests.support.stack import RERANK, Stack, StartStack
from tests.support.vl_model import build_vl_model
from tests.support.wait import patient, wait_until

BUCKET = "shop"
LOST = "shop-of-others"
"""A bucket that rejects our credentials until they are renewed."""
SECRET = "d00dfeed5ec2e7"
"""The secret of a signed link, which must not appear anywhere else."""
TOLERANCE = 1e-4

ACCESS = {
    "AWS_ACCESS_KEY_ID": "key-id",
    "AWS_SECRET_ACCESS_KEY": "very-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Front(ThreadingHTTPServer):
    """A proxy of S3: forwards everything, refuses the credentials for the objects of LOST until
    `renewed`, and serves a few pages of its own."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.behind = behind
        self.renewed = threading.Event()
        self.pages: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/{LOST}/") and not self.server.renewed.is_set():
            body = b"<Error><Code>InvalidAccessKeyId</Code><Message>?</Message></Error>"
            self._send(403, body, "application/xml")
        elif path.startswith("/pages/"):
            page = self.server.pages.get(path.removeprefix("/pages/"))
            self._send(404 if page is None else 200, page or b"", "image/png")
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        request = urllib.request.Request(self.server.behind + self.path, headers=headers)
        try:
            answer = urllib.request.urlopen(request, timeout=patient(10))
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            kind = answer.headers.get("Content-Type", "application/octet-stream")
            self._send(answer.status, answer.read(), kind, etag=answer.headers.get("ETag"))

    def _send(self, status: int, body: bytes, kind: str, etag: str | None = None) -> None:
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # the client was killed
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def front(s3_server: str) -> Iterator[Front]:
    """A host that serves images, in front of the local S3."""
    server = Front(s3_server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3-VL reranker."""
    return build_vl_model(tmp_path_factory.mktemp("vl"))


@pytest.fixture(scope="module")
def environment(front: Front, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings with which all commands use the same S3 and may read the same sources."""
    root = tmp_path_factory.mktemp("allowed")
    return ACCESS | {
        "AWS_ENDPOINT_URL_S3": f"http://{front.address}",
        "RERANK_ALLOWED_BUCKETS": f"{BUCKET},{LOST}",
        "RERANK_ALLOWED_HOSTS": f"localhost,{front.address}",
        "RERANK_ALLOWED_ROOTS": str(root),
        "RERANK_DECODE_PROCESSES": "1",
        "RERANK_THREADS": "1",
        "RERANK_SHARD_SECONDS": "2",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stack's state and log."""
    return tmp_path_factory.mktemp("images-stack")


@pytest.fixture(scope="module")
def images(
    vl_folder: Path, environment: dict[str, str], start_stack: StartStack, folder: Path
) -> Iterator[Stack]:
    """A running stack that serves the model."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)  # the client in this process reads it too
        with start_stack(str(vl_folder), environment, folder) as stack:
            yield stack


@pytest.fixture
def put(s3_server: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`put("name.png", data)` creates an object and returns its URI; boto3 uses the same S3."""
    import boto3

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    client = boto3.client("s3", endpoint_url=s3_server)
    for bucket in (BUCKET, LOST):
        client.create_bucket(Bucket=bucket)

    def make(key: str, data: bytes, bucket: str = BUCKET) -> str:
        client.put_object(Bucket=bucket, Key=key, Body=data)
        return f"s3://{bucket}/{key}"

    return make


Put = Callable[..., str]


def rerank(
    environment: dict[str, str], stack: Stack, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the command beside the stack."""
    return subprocess.run(
        [RERANK, *arguments],
        env={**os.environ, **stack.settings.environment(), **environment},
        capture_output=True,
        text=True,
        timeout=patient(120),
        check=False,
    )


def score(
    requests: list[dict[str, Any]],
    tmp_path: Path,
    environment: dict[str, str],
    stack: Stack,
    model: Path,
) -> list[dict[str, Any]]:
    """The output lines of `rerank score` for some requests, without the queue."""
    source, out = tmp_path / "direct.jsonl", tmp_path / "direct-out.jsonl"
    write(source, requests)
    options = ["--model", str(model), "--image-preset", "reference"]
    done = rerank(environment, stack, "score", str(source), "-o", str(out), *options)
    assert done.returncode == 0, done.stderr
    return read(out)


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def finished(stack: Stack, job_id: str) -> list[dict[str, Any]]:
    """The output of a job, once it is done."""
    status = stack.client.wait(job_id, timeout_s=patient(90))
    assert status.state == "done", status
    return list(stack.client.results(job_id))


# ---- what goes well -----------------------------------------------------------------------------


def test_every_kind_of_content_is_scored(
    images: Stack,
    put: Put,
    front: Front,
    vl_folder: Path,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    # given documents of every kind, from all allowed sources
    uris = [put(f"kinds/{n}.png", png(n)) for n in range(4)]
    front.pages["kind.png"] = png(9)
    local = Path(environment["RERANK_ALLOWED_ROOTS"]) / "local.jpg"
    local.write_bytes(encoded(drawn(8), "JPEG"))
    embedded = f"data:image/png;base64,{base64.b64encode(png(7)).decode()}"
    documents = [
        {"image": uris[0]},
        {"text": "a gate", "image": uris[1]},
        {"text": "three images", "image": [uris[0], uris[1], uris[2]]},
        {"video": {"frames": uris[:3], "fps": 2}},
        {"image": embedded, "id": "embedded"},
        {"image": f"http://{front.address}/pages/kind.png"},
        {"image": local.as_uri()},
        "a stone gate by the river",
    ]
    requests = [
        {"id": "by-text", "query": "a gate", "documents": documents},
        {"id": "by-image", "query": {"image": uris[3], "text": "like"}, "documents": documents},
    ]
    # when they go through the queue
    source = write(tmp_path / "in.jsonl", requests)
    job_id = images.client.submit(source, model=str(vl_folder), image_preset="reference")
    lines = finished(images, job_id)
    # then all of them have scores, with details of their images
    assert [line["errors"] for line in lines] == [[], []]
    for line in lines:
        by_index = {result["index"]: result for result in line["results"]}
        assert sorted(by_index) == list(range(len(documents)))
        assert by_index[0]["images"][0]["used"] == [128, 96]
        assert by_index[0]["tokens"] == 12
        assert by_index[2]["tokens"] == 36
        assert by_index[3]["tokens"] == 24  # three frames: two steps
        assert len({round(result["margin"], 5) for result in by_index.values()}) > 4
    # and an interactive request gives the same
    line = images.client.rerank("a gate", documents, model=str(vl_folder), image_preset="reference")
    now = {result["index"]: result["margin"] for result in line["results"]}
    then = {result["index"]: result["margin"] for result in lines[0]["results"]}
    assert now == pytest.approx(then, abs=TOLERANCE)


def test_a_catalog_has_the_scores_of_its_pairs_one_by_one(
    images: Stack, put: Put, vl_folder: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    # given a catalog in a bucket, and queries of text and of images
    uris = [put(f"catalog/{n:02}.png", png(20 + n, (64 + 32 * (n % 3), 96))) for n in range(9)]
    queries = ["a gate", {"image": uris[2]}, {"text": "like this", "image": uris[3]}]
    named = [{"id": f"q{n}", **(q if isinstance(q, dict) else {"text": q})}
             for n, q in enumerate(queries)]  # fmt: skip
    # when every query is scored with every image
    job_id = images.client.submit_catalog(
        f"s3://{BUCKET}/catalog/", named, model=str(vl_folder), image_preset="reference", top_n=3
    )
    rows = finished(images, job_id)
    # then each pair occurs once, with the margin that it has alone
    margins = {(row["query_id"], row["image_id"]): row["margin"] for row in rows}
    assert len(margins) == len(rows) == len(uris) * len(queries)
    alone = [{"query": q, "documents": [{"image": uri}]} for uri in uris for q in queries]
    lines = score(alone, tmp_path, environment, images, vl_folder)
    expected = [line["results"][0]["margin"] for line in lines]
    got = [margins[f"q{n}", uri] for uri in uris for n in range(len(queries))]
    assert got == pytest.approx(expected, abs=TOLERANCE)
    assert max(expected) - min(expected) > 0.01  # images make a difference


def test_a_worker_killed_in_the_middle_of_a_catalog_costs_nothing(
    images: Stack, put: Put, vl_folder: Path
) -> None:
    # given a started catalog job
    wait_until(images.ready_workers, 60, "a worker is ready")
    uris = [put(f"many/{n:03}.png", png(100 + n)) for n in range(60)]
    queries = [f"query {n}" for n in range(12)]
    job_id = images.client.submit_catalog(
        f"s3://{BUCKET}/many/", queries, model=str(vl_folder), image_preset="reference"
    )
    wait_until(lambda: images.client.status(job_id).progress.scored, 60, "the first commit")
    # when its only worker is killed
    os.kill(images.ready_workers()[0].pid, signal.SIGKILL)
    assert images.client.status(job_id).state == "running"
    # then its successor scores the rest, and no pair twice
    rows = finished(images, job_id)
    pairs = [(row["query_id"], row["image_id"]) for row in rows]
    assert all("margin" in row for row in rows)
    assert sorted({image for _, image in pairs}) == uris
    assert len(pairs) == len(set(pairs)) == len(uris) * len(queries)


# ---- what goes wrong ----------------------------------------------------------------------------


def huge_header() -> bytes:
    """A PNG that claims 30,000 × 30,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        tail = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + tail

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def animated() -> bytes:
    """A GIF of three frames."""
    first, *others = (drawn(n) for n in range(3))
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=others)
    return out.getvalue()


def test_bad_images_have_clear_outcomes_and_all_others_scores(
    images: Stack, put: Put, front: Front, vl_folder: Path, folder: Path, tmp_path: Path
) -> None:
    # given good images and images with every kind of error
    signed = f"?X-Amz-Signature={SECRET}"
    good = [put(f"good/{n}.png", png(40 + n)) for n in range(8)]
    whole = png(50)
    front.pages["truncated.png"] = whole[: len(whole) // 2]
    cases = {
        put("bad/animated.gif", animated()): None,  # its first frame
        put("bad/1x1.png", encoded(Image.new("RGB", (1, 1)))): None,  # enlarged
        put("bad/1x20000.png", encoded(Image.new("RGB", (1, 20_000)))): "unsupported_image",
        put("bad/huge.png", huge_header()): "image_too_large",
        put("bad/empty.png", b""): "invalid_image",
        put("bad/text.png", b"this is no image at all"): "unsupported_image",
        f"s3://{BUCKET}/bad/lost.png": "not_found",
        "s3://secrets-of-others/a.png": "refused_source",
        f"http://{front.address}/pages/lost.png{signed}": "not_found",
        f"http://{front.address}/pages/truncated.png{signed}": "invalid_image",
        f"http://localhost/private.png{signed}": "refused_source",
        f"http://192.0.2.1/other.png{signed}": "refused_source",
        "file:///etc/passwd": "refused_source",
    }
    bad = list(cases)
    listing = write(
        tmp_path / "listing.jsonl",
        [{"id": n, "image": uri} for n, uri in enumerate([*good, *bad])],
    )
    requests = [
        {"id": "documents", "query": "q", "documents": [{"image": u} for u in [*good, *bad]]},
        {"id": "query", "query": {"image": f"{bad[8]}"}, "documents": ["a", "b"]},
    ]
    source = write(tmp_path / "in.jsonl", requests)
    # when they are scored as a catalog and as documents
    options = {"model": str(vl_folder), "image_preset": "reference"}
    catalog = images.client.submit_catalog(listing, ["q"], **options)
    job = images.client.submit(source, **options)
    rows, (documents, query) = finished(images, catalog), finished(images, job)
    # then each has the expected outcome
    outcomes = [None] * len(good) + list(cases.values())
    by_image = {row["image_id"]: row.get("error", {}).get("code") for row in rows}
    assert [by_image[n] for n in range(len(outcomes))] == outcomes
    codes = {error["index"]: error["code"] for error in documents["errors"]}
    assert [codes.get(n) for n in range(len(outcomes))] == outcomes
    assert len(documents["results"]) + len(documents["errors"]) == len(outcomes)
    assert [error["code"] for error in query["errors"]] == ["not_found", "not_found"]
    # and a hint says what to do
    errors = [*documents["errors"], *query["errors"], *(r["error"] for r in rows if "error" in r)]
    assert all(error["message"] and error["hint"] for error in errors)
    # and the secret of a link appears nowhere
    assert SECRET not in json.dumps(errors)
    assert SECRET not in (folder / "up.log").read_text()
    assert not [key for key, value in everything_in(images) if SECRET in value]


def everything_in(stack: Stack) -> Iterator[tuple[str, str]]:
    """Each key of Redis with its whole content."""
    client = stack.client.store.client
    for key in client.scan_iter(count=1000):
        if (kind := client.type(key)) != "none":
            yield key, repr(_readers(client)[kind](key))


def _readers(client: Any) -> dict[str, Callable[[str], Any]]:
    return {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "list": lambda key: client.lrange(key, 0, -1),
        "zset": lambda key: client.zrange(key, 0, -1),
        "stream": lambda key: client.xrange(key),
    }


def test_a_job_whose_credentials_are_refused_waits_until_they_are_renewed(
    images: Stack, put: Put, front: Front, vl_folder: Path
) -> None:
    # given images in a bucket that rejects our credentials
    uris = [put(f"{n}.png", png(60 + n), bucket=LOST) for n in range(4)]
    # when they are to be scored
    job_id = images.client.submit_catalog(
        f"s3://{LOST}/", ["a", "b"], model=str(vl_folder), image_preset="reference", limit=3
    )
    why = "S3 refused the credentials (InvalidAccessKeyId)"
    wait_until(lambda: why in images.client.status(job_id).reason, 60, "it waits and says why")
    # then the job is not paused, and no image has an error
    status = images.client.status(job_id)
    assert (status.state, status.progress.errors) == ("running", 0)
    # and once they are renewed it runs to its end by itself
    front.renewed.set()
    rows = finished(images, job_id)
    assert {row["image_id"] for row in rows} == set(uris[:3])
    assert all("margin" in row for row in rows)
