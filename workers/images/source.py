"""Images by their URIs: fetched by threads, decoded by child processes."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rerankfleet.shared.content.images import ImageSpec
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
from rerankfleet.shared.tally import Tally
from rerankfleet.workers.images.fetch import Fetcher
from rerankfleet.workers.images.pool import Pool
from rerankfleet.workers.images.prepared import ImageRef, PreparedImage

FETCHES_AT_A_TIME = 16
URGENT_FETCHES_AT_A_TIME = 4
"""In addition, for interactive requests: a slow host cannot hold them up."""
RECENT_BYTES = 128 << 20
"""Pixels cached for the next run: the image queries of a catalog come again and again."""
RECENT_S = 60.0
"""How long a URI is assumed to name the same image."""


class ImageSource:
    """Fetches and decodes images; each image that cannot be loaded is an error of its own.

    Bounded in concurrent fetches, bytes of each, images being decoded, and cached pixels. An image
    that is being loaded already is not fetched twice.
    """

    def __init__(self, fetcher: Fetcher, pool: Pool, tally: Tally | None = None) -> None:
        self._fetcher, self._pool = fetcher, pool
        self._tally = tally or Tally()
        self._threads = {
            False: ThreadPoolExecutor(FETCHES_AT_A_TIME, "fetch"),
            True: ThreadPoolExecutor(URGENT_FETCHES_AT_A_TIME, "fetch-urgent"),
        }
        self._lock = threading.Lock()
        self._loading: dict[tuple[ImageRef, bool], Future[PreparedImage]] = {}
        self._recent = _Recent(RECENT_BYTES, RECENT_S)

    @classmethod
    def of(
        cls, settings: Settings, base: Path | None = None, tally: Tally | None = None
    ) -> ImageSource:
        """A source with the limits of the settings; `base` is one more allowed folder, and the one
        that relative paths are relative to; `tally` counts the work."""
        tally = tally or Tally()
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
            on_retry=lambda: tally.add(RETRIES, "fetch"),
        )
        return cls(fetcher, Pool(settings.decode_processes), tally)

    def load(
        self, refs: Iterable[ImageRef], *, urgent: bool = False
    ) -> dict[ImageRef, PreparedImage | ItemError]:
        """Each image, or the error why it could not be loaded. Urgent ones have threads of their
        own. Raises CredentialsRefused when the storage refuses ours."""
        futures = {ref: self._begin(ref, urgent) for ref in refs}
        misses = sum(is_new for _, is_new in futures.values())
        self._tally.add(CACHE_LOOKUPS, "picture", "miss", amount=misses)
        self._tally.add(CACHE_LOOKUPS, "picture", "hit", amount=len(futures) - misses)
        return {ref: self._outcome(ref, urgent, *one) for ref, one in futures.items()}

    def prepare(self, data: bytes, options: ImageSpec) -> PreparedImage:
        """Decode a file that the caller holds. Raises ItemError."""
        return self._pool.prepare(data, options).result()

    def _begin(self, ref: ImageRef, urgent: bool) -> tuple[Future[PreparedImage], bool]:
        """The image's future, and whether loading it begins now: it may be cached, or on its
        way."""
        with self._lock:
            if image := self._recent.get(ref):
                cached: Future[PreparedImage] = Future()
                cached.set_result(image)
                return cached, False
            loading = self._loading.get((ref, urgent))
            if loading and not loading.done():
                return loading, False
            future = self._threads[urgent].submit(self._load_one, ref)
            self._loading[ref, urgent] = future
        future.add_done_callback(lambda _: self._end(ref, urgent, future))
        return future, True

    def _outcome(
        self, ref: ImageRef, urgent: bool, future: Future[PreparedImage], is_new: bool
    ) -> PreparedImage | ItemError:
        """The image or its error. Raises CredentialsRefused only when loading began with this
        call; otherwise tries again, since the credentials may have been renewed meanwhile."""
        try:
            return future.result()
        except ItemError as error:
            return error
        except CredentialsRefused:
            if is_new:
                raise
            return self._outcome(ref, urgent, *self._begin(ref, urgent))

    def _end(self, ref: ImageRef, urgent: bool, future: Future[PreparedImage]) -> None:
        with self._lock:
            if self._loading.get((ref, urgent)) is future:
                del self._loading[ref, urgent]
            if not future.cancelled() and future.exception() is None:
                self._recent.put(ref, future.result())

    def _load_one(self, ref: ImageRef) -> PreparedImage:
        try:
            with self._tally.timed("fetch"):
                data = self._fetcher.fetch(ref.uri)
            image = self._pool.prepare(data, ref.options).result()
        except ItemError as error:
            self._tally.add(IMAGES_REJECTED, error.code)
            raise
        self._record(len(data), image)
        return image

    def _record(self, size_bytes: int, image: PreparedImage) -> None:
        observe = self._tally.observe
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
    """A cache of the images loaded last, bounded in bytes and age."""

    def __init__(self, max_bytes: int, max_age_s: float) -> None:
        self._max_bytes, self._max_age_s = max_bytes, max_age_s
        self._images: OrderedDict[ImageRef, tuple[float, PreparedImage]] = OrderedDict()
        self._bytes = 0

    def get(self, ref: ImageRef) -> PreparedImage | None:
        loaded_s, image = self._images.get(ref, (0.0, None))
        if image is None or time.monotonic() - loaded_s > self._max_age_s:
            return None
        self._images.move_to_end(ref)
        return image

    def put(self, ref: ImageRef, image: PreparedImage) -> None:
        self._drop(ref)
        self._images[ref] = (time.monotonic(), image)
        self._bytes += image.pixels.nbytes
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._images)))

    def _drop(self, ref: ImageRef) -> None:
        if ref in self._images:
            self._bytes -= self._images.pop(ref)[1].pixels.nbytes
