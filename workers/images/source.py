"""Images by their URIs: fetched by threads, decoded by child processes."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from concurrent.futures import CancelledError, Future
from pathlib import Path

from rerankfleet.shared.addresses import local_path
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
from rerankfleet.shared.storage.scopes import JOBS
from rerankfleet.shared.storage.uploads import OwnUploads, uploads_uri
from rerankfleet.shared.tally import Tally
from rerankfleet.workers.images.budget import missing
from rerankfleet.workers.images.fetch import Fetcher
from rerankfleet.workers.images.pool import Pool
from rerankfleet.workers.images.prepared import ImageRef, PreparedImage
from rerankfleet.workers.images.turns import Caller, FairThreads, Signal, result

FETCHES_AT_A_TIME = 16
URGENT_FETCHES_AT_A_TIME = 8
"""In addition, for interactive requests: a slow host cannot hold them up."""
FETCHES_OF_A_REQUEST = 4
"""Of these, for one request: nor can its own slow host hold up another request."""
TURNS_COUNTED = 256
"""Interactive requests whose pixels are counted at a time."""
RECENT_BYTES = 128 << 20
"""Pixels cached for the next run: the image queries of a catalog come again and again."""
RECENT_S = 60.0
"""How long a URI is assumed to name the same image."""


class ImageSource:
    """Fetches and decodes images; each image that cannot be loaded is an error of its own.

    Bounded in concurrent fetches, bytes of each, images being decoded, and cached pixels. An image
    that is being loaded already is not fetched twice.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        pool: Pool,
        tally: Tally | None = None,
        *,
        urgent_pixels_max: float = math.inf,
        uploads: OwnUploads | None = None,
    ) -> None:
        self._fetcher, self._pool, self._uploads = fetcher, pool, uploads
        self._tally = tally or Tally()
        self._threads = {
            False: FairThreads(FETCHES_AT_A_TIME, "fetch"),
            True: FairThreads(
                URGENT_FETCHES_AT_A_TIME, "fetch-urgent", per_turn=FETCHES_OF_A_REQUEST
            ),
        }
        self._lock = threading.Lock()
        self._loading: dict[tuple[ImageRef, bool], _Load] = {}
        self._pixels = _Pixels(urgent_pixels_max)
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
            closed=[f"{settings.storage_uri}/{JOBS}"],
            base=base,
            max_bytes=settings.image_bytes_max,
            timeout_s=settings.image_timeout_s,
            on_retry=lambda: tally.add(RETRIES, "fetch"),
        )
        pool, most = Pool(settings.decode_processes), settings.interactive_pixels_max
        own = OwnUploads(settings)
        return cls(fetcher, pool, tally, urgent_pixels_max=most, uploads=own)

    def load(
        self, refs: Iterable[ImageRef], caller: Caller | None = None
    ) -> dict[ImageRef, PreparedImage | ItemError]:
        """Each image, or the error why it could not be loaded. Callers take turns, the urgent ones
        with threads of their own. Raises CredentialsRefused when the storage refuses ours, and
        CancelledError when the caller stops: what no other caller waits for ends then."""
        caller = caller or Caller()
        if caller.stop.is_set():
            raise CancelledError
        wanted = list(dict.fromkeys(refs))
        outcomes: dict[ImageRef, PreparedImage | ItemError] = {
            ref: missing(ref.uri, "does not exist")
            for ref in wanted
            if self._is_foreign(ref, caller)
        }
        begun: dict[ImageRef, tuple[_Load, bool]] = {}
        try:
            for ref in wanted:
                if ref not in outcomes:
                    begun[ref] = self._begin(ref, caller)
            misses = sum(is_new for _, is_new in begun.values())
            self._tally.add(CACHE_LOOKUPS, "picture", "miss", amount=misses)
            self._tally.add(CACHE_LOOKUPS, "picture", "hit", amount=len(begun) - misses)
            outcomes |= {ref: self._outcome(ref, caller, *one) for ref, one in begun.items()}
            return outcomes
        finally:
            for ref, (load, _) in begun.items():
                self._leave(ref, caller, load)

    def _is_foreign(self, ref: ImageRef, caller: Caller) -> bool:
        """Whether it is another's upload, which is for the caller as if it were not there."""
        if caller.owner is None or self._uploads is None:
            return False
        return self._uploads.is_foreign(ref.uri, caller.owner)

    def prepare(self, data: bytes, options: ImageSpec) -> PreparedImage:
        """Decode a file that the caller holds. Raises ItemError."""
        return self._pool.prepare(data, options).result()

    def _begin(self, ref: ImageRef, caller: Caller) -> tuple[_Load, bool]:
        """The image's load, and whether it begins now: it may be cached, or on its way."""
        with self._lock:
            if image := self._recent.get(ref):
                cached = _Load()
                cached.future.set_result(image)
                return cached, False
            load = self._loading.get((ref, caller.urgent))
            if load and not load.future.done():
                load.callers += 1
                return load, False
            self._loading[ref, caller.urgent] = load = _Load()
        self._threads[caller.urgent].submit(caller, self._fetch, ref, load, caller)
        return load, True

    def _leave(self, ref: ImageRef, caller: Caller, load: _Load) -> None:
        """Wait for an image no more; if nobody else does, end its load."""
        with self._lock:
            load.callers -= 1
            if load.callers or load.future.done():
                return
            load.future.cancel()
            if self._loading.get((ref, caller.urgent)) is load:
                del self._loading[ref, caller.urgent]
        load.unwanted.set()

    def _outcome(
        self, ref: ImageRef, caller: Caller, load: _Load, is_new: bool
    ) -> PreparedImage | ItemError:
        """The image or its error. Raises CredentialsRefused only when loading began with this
        call; otherwise tries again, since the credentials may have been renewed meanwhile."""
        try:
            return result(load.future, caller.stop)
        except ItemError as error:
            return error
        except CredentialsRefused:
            if is_new:
                raise
            again, is_new = self._begin(ref, caller)
            try:
                return self._outcome(ref, caller, again, is_new)
            finally:
                self._leave(ref, caller, again)

    def _fetch(self, ref: ImageRef, load: _Load, caller: Caller) -> None:
        """In a thread: fetch an image, and have it decoded."""
        if load.unwanted.is_set():
            return
        try:
            with self._tally.timed("fetch"):
                data = self._fetcher.fetch(ref.uri, load.unwanted)
            self._pixels.check(caller)
            decoding = self._pool.prepare(data, ref.options, caller, load.unwanted)
        except BaseException as error:
            self._fail(ref, load, caller, error)
            return
        decoding.add_done_callback(lambda one: self._decoded(ref, load, caller, len(data), one))

    def _decoded(
        self,
        ref: ImageRef,
        load: _Load,
        caller: Caller,
        size_bytes: int,
        decoding: Future[PreparedImage],
    ) -> None:
        if decoding.cancelled():
            self._fail(ref, load, caller, CancelledError())
        elif error := decoding.exception():
            self._fail(ref, load, caller, error)
        else:
            image = decoding.result()
            self._record(size_bytes, image)
            self._pixels.count(ref, caller, math.prod(image.original))
            with self._lock:
                self._recent.put(ref, image)
                self._end(ref, load, caller)
                if not load.future.done():
                    load.future.set_result(image)

    def _fail(self, ref: ImageRef, load: _Load, caller: Caller, error: BaseException) -> None:
        with self._lock:
            self._end(ref, load, caller)
            if load.future.done():  # nobody waits
                return
            if isinstance(error, ItemError):
                self._tally.add(IMAGES_REJECTED, error.code)
            load.future.set_exception(error)

    def _end(self, ref: ImageRef, load: _Load, caller: Caller) -> None:
        if self._loading.get((ref, caller.urgent)) is load:
            del self._loading[ref, caller.urgent]

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
            threads.shutdown()
        self._pool.close()
        with self._lock:
            for load in self._loading.values():
                load.future.cancel()


class _Load:
    """An image on its way to its callers, and the signal that there are none."""

    def __init__(self) -> None:
        self.future: Future[PreparedImage] = Future()
        self.unwanted = Signal()
        self.callers = 1


class _Pixels:
    """Counts the pixels that urgent turns had decoded, by image; bounded in turns."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._decoded: OrderedDict[Hashable, dict[ImageRef, int]] = OrderedDict()

    def check(self, caller: Caller) -> None:
        """Raises ItemError when the caller's turn may have no more images decoded."""
        with self._lock:
            decoded = sum(self._decoded.get(caller.turn, {}).values())
        if caller.urgent and decoded >= self._most:
            raise ItemError(
                "too_many_pixels",
                f"the request's images have more than {self._most:,} pixels in all",
                hint="scale them down, or submit it as a job",
            )

    def count(self, ref: ImageRef, caller: Caller, pixels: int) -> None:
        """Add an image to its turn, once however often it is decoded."""
        if not caller.urgent:
            return
        with self._lock:
            self._decoded.setdefault(caller.turn, {})[ref] = pixels
            self._decoded.move_to_end(caller.turn)
            if len(self._decoded) > TURNS_COUNTED:
                self._decoded.popitem(last=False)


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
