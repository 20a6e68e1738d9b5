"""Where the files of a run's jobs are, and how that place fails: a folder, a small disk, an S3."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Protocol
from urllib.error import URLError
from urllib.request import urlopen

from rerankfleet.chaos.s3_proxy import FailingProxy, Failure
from rerankfleet.producer.ports import free_port
from rerankfleet.shared.errors import UsageError

BUCKET = "chaos"
DISK_BYTES = 96 << 20
START_S = 60.0
FAILS_S = (0.5, 6.0)
"""How long a storage fails at once."""


class Failing(Protocol):
    """A fault of a storage: it breaks it, yields for how many seconds, and mends it."""

    def __call__(self, random: Random) -> Iterator[float]:
        """Break, yield, mend."""


class Storage:
    """A storage that can fail."""

    def __init__(self, uri: str, output: str, faults: Mapping[str, Failing]) -> None:
        self.uri = uri
        self.output = output
        """Where users ask for their outputs; ends with a slash."""
        self.faults = faults
        """By name, what can befall it."""

    def left(self) -> list[str]:
        """What is in it: nothing, once every job has been forgotten."""
        root = Path(self.uri.removeprefix("file://"))
        return [str(p.relative_to(root)) for p in sorted(root.rglob("*")) if p.is_file()]


@contextmanager
def storage(kind: str, folder: Path, seed: int) -> Iterator[Storage]:
    """A storage of a kind: `folder`, `disk` or `s3`. Raises UsageError where it cannot be had."""
    makers = {"folder": _folder, "disk": _disk, "s3": _s3}
    if kind not in makers:
        raise UsageError(f"{kind!r} is no kind of storage", hint=f"one of {', '.join(makers)}")
    with makers[kind](folder, seed) as made:
        yield made


@contextmanager
def _folder(folder: Path, seed: int) -> Iterator[Storage]:
    path, output = folder / "storage", folder / "output"
    for made in (path, output):
        made.mkdir()
    faults = {"storage taken away": lambda random: _taken_away(path, random)}
    yield Storage(f"file://{path}", f"file://{output}/", faults)


@contextmanager
def _disk(folder: Path, seed: int) -> Iterator[Storage]:
    """A file system of its own, which can be filled. Needs the right to mount."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise UsageError(
            "a small disk needs the right to mount one", hint="run it as root, or take a folder"
        )
    try:
        path, output = disk / "storage", disk / "output"
        for made in (path, output):
            made.mkdir()
        faults = {
            "disk full": lambda random: _full(disk, random),
            "disk read-only": lambda random: _read_only(disk, random),
            "storage taken away": lambda random: _taken_away(path, random),
        }
        yield Storage(f"file://{path}", f"file://{output}/", faults)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True, capture_output=True)


def _taken_away(path: Path, random: Random) -> Iterator[float]:
    """In its place is a file, so that nobody makes the folder anew."""
    away = path.with_name(f"{path.name}-away")
    path.rename(away)
    path.touch()
    try:
        yield random.uniform(*FAILS_S)
    finally:
        path.unlink()
        away.rename(path)


def _full(disk: Path, random: Random) -> Iterator[float]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 16))
    try:
        yield random.uniform(*FAILS_S)
    finally:
        ballast.unlink()


def _read_only(disk: Path, random: Random) -> Iterator[float]:
    """Refused while a file is being written: then it is tried for a moment."""
    for _ in range(50):
        if not _remount(disk, "ro"):
            break
        time.sleep(0.02)
    try:
        yield random.uniform(*FAILS_S)
    finally:
        _remount(disk, "rw")


def _remount(disk: Path, mode: str) -> int:
    command = ["mount", "-o", f"remount,{mode}", str(disk)]
    return subprocess.run(command, capture_output=True).returncode


class _S3(Storage):
    def left(self) -> list[str]:
        import boto3

        client = boto3.client("s3")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="storage/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
        return keys + [f"upload of {upload['Key']}" for upload in uploads]


@contextmanager
def _s3(folder: Path, seed: int) -> Iterator[Storage]:
    """A local S3 behind a proxy that fails. Its access is in the environment during the block."""
    with ExitStack() as stack:
        port = stack.enter_context(_moto(folder))
        proxy = FailingProxy("127.0.0.1", port, seed)
        stack.callback(proxy.close)
        stack.enter_context(
            environment(
                AWS_ENDPOINT_URL_S3=proxy.endpoint,
                AWS_ACCESS_KEY_ID="key-id",
                AWS_SECRET_ACCESS_KEY="very-secret",
                AWS_DEFAULT_REGION="us-east-1",
                AWS_EC2_METADATA_DISABLED="true",
            )
        )
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        faults = {f"S3: {failure}": _failing(proxy, failure) for failure in Failure}
        yield _S3(f"s3://{BUCKET}/storage", f"s3://{BUCKET}/output/", faults)


def _failing(proxy: FailingProxy, failure: Failure) -> Failing:
    def fail(random: Random) -> Iterator[float]:
        with proxy.failing(failure, share=random.choice((0.3, 0.7, 1.0))):
            yield random.uniform(*FAILS_S)

    return fail


@contextmanager
def _moto(folder: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UsageError(
                    "the local S3 did not start", hint="pip install 'rerankfleet[embedded]'"
                )
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with suppress(URLError, OSError), urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5):
        return True
    return False


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """These environment variables during the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
