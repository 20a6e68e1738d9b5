"""Pictures by their addresses: fetched by many threads, decoded by processes apart."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from shared.errors import ItemError
from shared.settings import Settings
from workers.images.fetch import Fetcher
from workers.images.picture import Picture
from workers.images.pool import Pool
from workers.prepare import Wanted

FETCHES_AT_A_TIME = 16


class PictureSource:
    """Fetches and decodes; each picture that cannot be had is an error of its own.

    Bounded: so many fetches at a time, each of bounded size, and what the pool decodes.
    """

    def __init__(self, fetcher: Fetcher, pool: Pool) -> None:
        self._fetcher, self._pool = fetcher, pool
        self._threads = ThreadPoolExecutor(FETCHES_AT_A_TIME, "fetch")

    @classmethod
    def of(cls, settings: Settings, base: Path | None = None) -> PictureSource:
        """As the settings allow; `base` is one more allowed folder, to which relative paths are
        relative."""
        roots = [*settings.allowed_roots, *([base] if base else [])]
        fetcher = Fetcher(
            allowed_buckets=settings.allowed_buckets,
            allowed_hosts=settings.allowed_hosts,
            allowed_roots=roots,
            base=base,
            max_bytes=settings.image_bytes_max,
            timeout_s=settings.image_timeout_s,
        )
        return cls(fetcher, Pool(settings.decode_processes))

    def load(self, wanted: Iterable[Wanted]) -> dict[Wanted, Picture | ItemError]:
        """See `prepare.Pictures`."""
        under_way = {w: self._threads.submit(self._load_one, w) for w in wanted}
        return {w: _picture_or_error(future) for w, future in under_way.items()}

    def _load_one(self, wanted: Wanted) -> Picture:
        data = self._fetcher.fetch(wanted.uri)
        return self._pool.prepare(data, wanted.options).result()

    def close(self) -> None:
        """End the threads and the processes."""
        self._threads.shutdown(cancel_futures=True)
        self._pool.close()


def _picture_or_error(future: Future[Picture]) -> Picture | ItemError:
    try:
        return future.result()
    except ItemError as error:
        return error
