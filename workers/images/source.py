"""Images by their addresses: fetched by many threads, decoded by processes apart."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rerankfleet.shared.errors import CredentialsRefused, ItemError
from rerankfleet.shared.metrics import (
    CACHE_LOOKUPS,
    IMAGES_REJECTED,
    PIXELS,
    RETRIES,
    SOURCE_BYTES,
    STAGES,
)
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import local_path
from rerankfleet.shared.storage.uploads import uploads_uri
from rerankfleet.workers.images.fetch import Fetcher
from rerankfleet.workers.images.pool import Pool
from rerankfleet.workers.images.prepared import PreparedImage
from rerankfleet.workers.prepare import Wanted
from rerankfleet.workers.recorder import Recorder

FETCHES_AT_A_TIME = 16
URGENT_FETCHES_AT_A_TIME = 4
"""Beside the others, for images that somebody waits for: a slow host keeps them from nothing."""
RECENT_BYTES = 128 << 20
"""Pixels of images kept for the next run: the queries of a catalog come in several."""
RECENT_S = 60.0
"""For so long an address is taken to name the same image."""


class ImageSource:
    """Fetches and decodes; each image that cannot be had is an error of its own.

    Bounded: so many fetches at a time, each of bounded size, what the pool decodes, and what is
    kept. An image that others are waiting for already is not fetched twice.
    """

    def __init__(self, fetcher: Fetcher, pool: Pool, recorder: Recorder | None = None) -> None:
        self._fetcher, self._pool = fetcher, pool
        self._recorder = recorder or Recorder()
        self._threads = {
            False: ThreadPoolExecutor(FETCHES_AT_A_TIME, "fetch"),
            True: ThreadPoolExecutor(URGENT_FETCHES_AT_A_TIME, "fetch-urgent"),
        }
        self._lock = threading.Lock()
        self._under_way: dict[tuple[Wanted, bool], Future[PreparedImage]] = {}
        self._recent = _Recent(RECENT_BYTES, RECENT_S)

    @classmethod
    def of(
        cls, settings: Settings, base: Path | None = None, recorder: Recorder | None = None
    ) -> ImageSource:
        """As the settings allow; `base` is one more allowed folder, to which relative paths are
        relative; `recorder` counts."""
        recorder = recorder or Recorder()
        uploads = uploads_uri(settings)
        roots = [*settings.allowed_roots, *([base] if base else [])]
        if uploads.startswith("file://"):
            roots.append(local_path(uploads))
        fetcher = Fetcher(
            allowed_buckets=settings.allowed_buckets,
            allowed_hosts=settings.allowed_hosts,
            allowed_roots=roots,
            allowed_prefixes=[uploads] if uploads.startswith("s3://") else [],
            base=base,
            max_bytes=settings.image_bytes_max,
            timeout_s=settings.image_timeout_s,
            on_retry=lambda: recorder.add(RETRIES, "fetch"),
        )
        return cls(fetcher, Pool(settings.decode_processes), recorder)

    def load(
        self, wanted: Iterable[Wanted], *, urgent: bool = False
    ) -> dict[Wanted, PreparedImage | ItemError]:
        """See `prepare.Images`."""
        begun = {w: self._begin(w, urgent) for w in wanted}
        asked = sum(asked for _, asked in begun.values())
        self._recorder.add(CACHE_LOOKUPS, "picture", "miss", amount=asked)
        self._recorder.add(CACHE_LOOKUPS, "picture", "hit", amount=len(begun) - asked)
        return {w: self._outcome(w, urgent, *one) for w, one in begun.items()}

    def _begin(self, wanted: Wanted, urgent: bool) -> tuple[Future[PreparedImage], bool]:
        """The image to come: known already, on its way, or asked for now, which is then True."""
        with self._lock:
            if image := self._recent.get(wanted):
                known: Future[PreparedImage] = Future()
                known.set_result(image)
                return known, False
            under_way = self._under_way.get((wanted, urgent))
            if under_way and not under_way.done():
                return under_way, False
            future = self._threads[urgent].submit(self._load_one, wanted)
            self._under_way[wanted, urgent] = future
        future.add_done_callback(lambda _: self._end(wanted, urgent, future))
        return future, True

    def _outcome(
        self, wanted: Wanted, urgent: bool, future: Future[PreparedImage], asked: bool
    ) -> PreparedImage | ItemError:
        """The image or its error. Raises CredentialsRefused; not when they were refused to whom
        the image was on its way for already, since they may have been renewed meanwhile."""
        try:
            return future.result()
        except ItemError as error:
            return error
        except CredentialsRefused:
            if asked:
                raise
            return self._outcome(wanted, urgent, *self._begin(wanted, urgent))

    def _end(self, wanted: Wanted, urgent: bool, future: Future[PreparedImage]) -> None:
        with self._lock:
            if self._under_way.get((wanted, urgent)) is future:
                del self._under_way[wanted, urgent]
            if not future.cancelled() and future.exception() is None:
                self._recent.put(wanted, future.result())

    def _load_one(self, wanted: Wanted) -> PreparedImage:
        try:
            with self._recorder.timed("fetch"):
                data = self._fetcher.fetch(wanted.uri)
            image = self._pool.prepare(data, wanted.options).result()
        except ItemError as error:
            self._recorder.add(IMAGES_REJECTED, error.code)
            raise
        self._record(len(data), image)
        return image

    def _record(self, size_bytes: int, image: PreparedImage) -> None:
        observe = self._recorder.observe
        observe(SOURCE_BYTES, value=size_bytes)
        observe(PIXELS, "orig", value=math.prod(image.original))
        observe(PIXELS, "used", value=math.prod(image.size))
        for stage, seconds in image.stages_s.items():
            observe(STAGES, stage, value=seconds)

    def close(self) -> None:
        """End the threads and the processes."""
        for threads in self._threads.values():
            threads.shutdown(cancel_futures=True)
        self._pool.close()


class _Recent:
    """The images had last, up to so many bytes and seconds."""

    def __init__(self, max_bytes: int, max_age_s: float) -> None:
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._images: OrderedDict[Wanted, tuple[float, PreparedImage]] = OrderedDict()
        self._bytes = 0

    def get(self, wanted: Wanted) -> PreparedImage | None:
        had_s, image = self._images.get(wanted, (0.0, None))
        if image is None or time.monotonic() - had_s > self._max_age_s:
            return None
        self._images.move_to_end(wanted)
        return image

    def put(self, wanted: Wanted, image: PreparedImage) -> None:
        self._drop(wanted)
        self._images[wanted] = (time.monotonic(), image)
        self._bytes += image.pixels.nbytes
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._images)))

    def _drop(self, wanted: Wanted) -> None:
        if wanted in self._images:
            self._bytes -= self._images.pop(wanted)[1].pixels.nbytes
