"""Bytes of an image by URI, only from where it was allowed, within bytes and time.

s3://bucket/key  https://  http://  file:///path  path  data:image/png;base64,...
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import stamina
import structlog

from rerankfleet.shared.addresses import canonical, local_path, safe_uri, scheme_of
from rerankfleet.shared.content.data_uris import WrongData, data_of, is_data_uri
from rerankfleet.shared.errors import CredentialsRefused, ItemError, RerankError, UsageError
from rerankfleet.shared.storage.below import PATH_BYTES_MAX, Closed, NotAFile, Outside
from rerankfleet.shared.storage.buckets import DOTS, DOTS_HINT
from rerankfleet.shared.storage.s3 import S3Failure, classify, is_s3_error, new_client
from rerankfleet.shared.storage.scopes import Scope, places
from rerankfleet.workers.images.budget import Budget, Transient, missing, refused, unreadable
from rerankfleet.workers.images.deadline import Deadline, cuttable
from rerankfleet.workers.images.encodings import unpacked
from rerankfleet.workers.images.http import HttpReader
from rerankfleet.workers.images.turns import Signal

log = structlog.get_logger()

KEPT = "is kept by the storage for another job"
KEPT_HINT = "name a file of your own, or the URI of an upload"
MAX_BYTES = 32 << 20
TIMEOUT_S = 10.0


class Fetcher:
    """Fetches images; safe to use from many threads.

    allowed_hosts: `example.com` (its default ports, public addresses only), `host:port`, or an
        address. With a port, or as an address, it may be a private one.
    allowed_roots: folders that paths and file:// URIs must be in, links resolved.
    allowed_prefixes: s3://bucket/prefix/ of objects that are allowed though their bucket is not.
    closed: file: or s3:// URIs of folders and prefixes that are not, though what is around them is.
    base: the folder that relative paths are relative to; it must be in an allowed root too.
    connections: how many threads fetch from S3 at once.
    on_retry: called before each further attempt.
    """

    def __init__(
        self,
        *,
        allowed_buckets: Sequence[str] = (),
        allowed_hosts: Sequence[str] = (),
        allowed_roots: Sequence[Path] = (),
        allowed_prefixes: Sequence[str] = (),
        closed: Sequence[str] = (),
        base: Path | None = None,
        max_bytes: int = MAX_BYTES,
        timeout_s: float = TIMEOUT_S,
        attempts: int = 3,
        connections: int = 32,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        self._scope = Scope(
            tuple(places(allowed_roots, (*allowed_buckets, *allowed_prefixes))), tuple(closed)
        )
        self._http = HttpReader(allowed_hosts)
        self._roots = self._scope.roots()
        self._base = base
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._attempts, self._connections = attempts, connections
        self._on_retry = on_retry
        self._s3_client: Any = None
        self._s3_lock = threading.Lock()

    def fetch(self, uri: str, unwanted: Signal | None = None) -> bytes:
        """The bytes of one image. Ends with CancelledError when it is `unwanted`.

        Raises ItemError: `refused_source` (not allowed), `not_found`, `too_large`, `timeout`,
        `invalid_image` (wrong base64, or a damaged encoding), `fetch_failed` (another try may
        succeed), `unreadable` (all else); and CredentialsRefused, which no item is to blame for.
        """
        try:
            return self._fetch(uri, unwanted or Signal())
        except (RerankError, CancelledError):
            raise
        except Exception as error:  # whatever a library raises is this item's outcome
            name = type(error).__name__
            log.warning("an image could not be read", uri=safe_uri(uri), error=name)
            hint = "check the address and what is there"
            raise unreadable(uri, f"cannot be read ({name})", hint) from None

    def _fetch(self, uri: str, unwanted: Signal) -> bytes:
        deadline_s = time.monotonic() + self._timeout_s
        budget = Budget(uri, self._max_bytes, self._timeout_s, deadline_s, unwanted)
        if is_data_uri(uri):
            return _data(uri, budget)
        scheme = scheme_of(uri)
        try:
            address = canonical(uri)
        except UsageError as error:
            raise refused(uri, f"cannot be read: {error.message}", error.hint) from None
        if scheme in ("", "file"):
            return self._file(address, budget)
        read = {"s3": self._s3, "http": self._http.read, "https": self._http.read}.get(scheme)
        if read is None:
            raise refused(uri, "has an unknown scheme", "use s3://, https://, file:// or data:")
        return self._with_retries(read, address, budget)

    def _with_retries(
        self, read: Callable[[str, Budget], bytes], uri: str, budget: Budget
    ) -> bytes:
        """Read with retries while there is time."""
        try:
            # a context, not the decorator: that would log the arguments
            for attempt in stamina.retry_context(
                on=Transient,
                attempts=self._attempts,
                timeout=self._timeout_s,
                wait_initial=0.1,
                wait_max=1.0,
            ):
                if attempt.num > 1:
                    self._on_retry()
                budget.check_time()
                with attempt:
                    return read(uri, budget)
        except Transient as error:
            budget.check_time()
            raise ItemError(
                "fetch_failed",
                f"{safe_uri(uri)} could not be read: {error}",
                hint="try again later",
            ) from None
        raise AssertionError("the last attempt returns or raises")

    # ---- files ----------------------------------------------------------------------------------

    def _file(self, uri: str, budget: Budget) -> bytes:
        path = self._path(uri)
        try:
            with os.fdopen(self._roots.open_file(path), "rb") as stream:
                if os.fstat(stream.fileno()).st_size > budget.max_bytes:
                    raise budget.too_large()
                return budget.read(stream.read)
        except Closed:
            raise refused(uri, KEPT, KEPT_HINT) from None
        except Outside:
            hint = "add its folder to RERANK_ALLOWED_ROOTS"
            raise refused(uri, "is in no allowed folder", hint) from None
        except NotAFile:
            raise missing(uri, "is not a file") from None
        except FileNotFoundError:
            if "/annex/objects/" in os.path.realpath(path):  # where a link of the name leads
                why = f"{safe_uri(uri)} is a link of git-annex to a file that is not here"
                raise ItemError("not_found", why, hint="fetch it: git annex get") from None
            raise missing(uri, "does not exist") from None
        except OSError as error:
            raise _file_error(uri, error) from None

    def _path(self, uri: str) -> Path:
        """The file's path as it is written. Raises ItemError when it is none."""
        try:
            path = local_path(uri) if scheme_of(uri) else Path(uri)
            if "\0" in str(path) or len(os.fsencode(path)) > PATH_BYTES_MAX:
                raise ValueError
        except ValueError:  # also half a character
            raise missing(uri, "is not a path") from None
        if not path.is_absolute():
            if self._base is None:
                raise refused(uri, "is a relative path", "write the whole path or a URI")
            path = self._base / path
        return path

    # ---- S3 -------------------------------------------------------------------------------------

    def _s3(self, uri: str, budget: Budget) -> bytes:
        bucket, _, key = uri.partition("://")[2].partition("/")
        verdict = self._scope.verdict(uri)
        if verdict == "closed":
            raise refused(uri, KEPT, KEPT_HINT)
        if verdict == "dots":
            raise refused(uri, f"is not read: {DOTS}", DOTS_HINT)
        if verdict == "outside":
            hint = f"add it to RERANK_ALLOWED_BUCKETS: RERANK_ALLOWED_BUCKETS={bucket}"
            raise refused(uri, f"is in the bucket {bucket!r}, which is not allowed", hint)
        if not key:
            raise missing(uri, "names no object")
        try:
            with _s3_errors(budget), Deadline(budget.check_time(), budget.unwanted):
                answer = self._client().get_object(Bucket=bucket, Key=key)
                with closing(answer["Body"]) as body:
                    if answer.get("ContentLength", 0) > budget.max_bytes:
                        raise budget.too_large()
                    data = budget.read(body.read)
            return unpacked(data, answer.get("ContentEncoding"), budget)
        except CredentialsRefused:
            self._s3_client = None  # the next client reads the credentials again
            raise

    def _client(self) -> Any:
        with self._s3_lock:
            if self._s3_client is None:
                self._s3_client = new_client(
                    attempts=1,  # retries are made here, while there is time
                    connect_timeout_s=min(5.0, self._timeout_s),
                    read_timeout_s=self._timeout_s,
                    connections=self._connections,
                    connection_class=cuttable,
                )
            return self._s3_client


_NOT_FILES = frozenset(
    {errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV, errno.ENXIO}
)


def _file_error(uri: str, error: OSError) -> ItemError:
    """The outcome of a file that the system does not give out."""
    why = f"cannot be read ({error.strerror})"
    if error.errno in (errno.EACCES, errno.EPERM):
        return unreadable(uri, why, "let the worker's user read it")
    if error.errno in _NOT_FILES:
        return missing(uri, why)
    return ItemError("fetch_failed", f"{safe_uri(uri)} {why}", hint="try again later")


@contextmanager
def _s3_errors(budget: Budget) -> Iterator[None]:
    """Turn what S3 raises into our errors, without its message: it may hold secrets."""
    try:
        yield
    except (OSError, HTTPException) as error:  # of the connection, past botocore
        budget.check_time()  # was it cut by the deadline?
        raise Transient(f"the connection broke ({type(error).__name__})") from None
    except Exception as error:
        if not is_s3_error(error):
            raise
        outcome = _s3_error(budget.uri, error)
        if isinstance(outcome, Transient):
            budget.check_time()  # was it cut by the deadline?
        raise outcome from None


_REFUSED = {
    "": "the credentials may not read it; without the right to list, S3 refuses missing objects"
    " too",
    "InvalidObjectState": "it is archived: restore it first",
    "PermanentRedirect": "its bucket is in another region: set AWS_REGION",
}
"""Code of a refusal -> what to do about it."""


def _s3_error(uri: str, error: Exception) -> Exception:
    failure, code = classify(error)
    if failure is S3Failure.CREDENTIALS:
        return CredentialsRefused(
            f"S3 refused the credentials ({code})", hint="renew them, then resume the job"
        )
    if failure is S3Failure.MISSING:
        return missing(uri, f"does not exist ({code})")
    if failure is S3Failure.REFUSED:
        return unreadable(uri, f"was refused ({code})", _REFUSED.get(code, _REFUSED[""]))
    return Transient(f"S3 is unavailable ({code})")


# ---- data: --------------------------------------------------------------------------------------


def _data(uri: str, budget: Budget) -> bytes:
    try:
        data = data_of(uri, budget.max_bytes)
    except WrongData as error:
        raise ItemError(
            "invalid_image", f"{safe_uri(uri)} is damaged: {error}", hint="encode the file again"
        ) from None
    if data is None:
        raise budget.too_large()
    return data
