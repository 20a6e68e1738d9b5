"""Bytes of an image by URI, only from where it was allowed, within bytes and time.

s3://bucket/key  https://  http://  file:///path  path  data:image/png;base64,...

An address is resolved once and the connection goes to what was checked; each redirect is checked
like the first address. Nothing of a query string reaches a message: signed URLs hold secrets there.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

import stamina
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util.ssl_match_hostname import CertificateError

from rerankfleet.shared.errors import CredentialsRefused, ItemError
from rerankfleet.workers.images.deadline import Deadline, cuttable

MAX_BYTES = 32 << 20
TIMEOUT_S = 10.0
REDIRECTS_MAX = 3
CHUNK_BYTES = 64 << 10
SHOWN_CHARACTERS = 200
PORTS = {"https": 443, "http": 80}
URL_CHARACTERS = "%/?:@!$&'()*+,;=-._~[]"
REDIRECTS = (301, 302, 303, 307, 308)

_HTTP, _HTTPS = cuttable(HTTPConnection), cuttable(HTTPSConnection)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_CREDENTIALS = {
    "CredentialRetrievalError",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RequestTimeTooSkewed",
    "SSOTokenLoadError",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
_URL_SAFE = str.maketrans("-_", "+/")
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Transient(Exception):
    """Worth another try; `str(error)` says what happened, without anything secret."""


def safe_uri(uri: str) -> str:
    """The URI fit to be shown: without user, password, query and fragment, and not too long."""
    if uri[:5].lower() == "data:":
        return f"{uri[:40].partition(',')[0]},… ({len(uri):,} characters)"
    shown = uri.partition("?")[0].partition("#")[0]
    scheme, separator, rest = shown.partition("://")
    if separator:
        host, slash, path = rest.partition("/")
        shown = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"


@dataclass(frozen=True, slots=True)
class _Budget:
    """What one fetch may still use."""

    uri: str
    max_bytes: int
    timeout_s: float
    deadline_s: float

    def check_time(self) -> float:
        """Seconds left. Raises ItemError when there are none."""
        left = self.deadline_s - time.monotonic()
        if left <= 0:
            raise self.timeout()
        return left

    def timeout(self) -> ItemError:
        """The outcome of a fetch that took too long."""
        return ItemError(
            "timeout",
            f"{safe_uri(self.uri)} was not read within {self.timeout_s:g} s",
            hint="check that its host is up and near enough",
        )

    def too_large(self) -> ItemError:
        """The outcome of an image of too many bytes."""
        return ItemError(
            "too_large",
            f"{safe_uri(self.uri)} is larger than {self.max_bytes:,} bytes",
            hint="scale it down",
        )

    def read(self, read: Callable[[int], bytes]) -> bytes:
        """Everything that `read(size)` gives, within bytes and time."""
        found = bytearray()
        while data := read(CHUNK_BYTES):
            found += data
            if len(found) > self.max_bytes:
                raise self.too_large()
            self.check_time()
        self.check_time()  # what ends now may have been cut by the clock
        return bytes(found)


class Fetcher:
    """Fetches images; safe to use from many threads.

    allowed_hosts: `example.com` (its default ports, public addresses only), `host:port`, or an
        address. Naming a port or an address says that you mean it, so it may be a private one.
    allowed_roots: folders that paths and file:// URIs must lie in, links followed.
    allowed_prefixes: s3://bucket/prefix/ of objects that are allowed though their bucket is not.
    base: the folder that relative paths start from; it must lie in an allowed root too.
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
        base: Path | None = None,
        max_bytes: int = MAX_BYTES,
        timeout_s: float = TIMEOUT_S,
        attempts: int = 3,
        connections: int = 32,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        self._buckets = frozenset(allowed_buckets)
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._roots = tuple(Path(root).resolve() for root in allowed_roots)
        self._prefixes = tuple(allowed_prefixes)
        self._base = base
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._attempts, self._connections = attempts, connections
        self._on_retry = on_retry
        self._s3_client: Any = None
        self._s3_lock = threading.Lock()

    def fetch(self, uri: str) -> bytes:
        """The bytes of one image.

        Raises ItemError: `refused_source` (not allowed), `not_found`, `too_large`, `timeout`,
        `fetch_failed` (all else); and CredentialsRefused, which is no item's fault.
        """
        budget = _Budget(uri, self._max_bytes, self._timeout_s, time.monotonic() + self._timeout_s)
        scheme = uri.partition(":")[0].lower()
        if scheme == "data":
            return _data(uri, budget)
        if scheme == "file" or "://" not in uri:
            return self._file(uri, budget)
        read = {"s3": self._s3, "http": self._http, "https": self._http}.get(scheme)
        if read is None:
            raise _refused(uri, "has an unknown scheme", "use s3://, https://, file:// or data:")
        return self._tried(read, uri, budget)

    def _tried(self, read: Callable[[str, _Budget], bytes], uri: str, budget: _Budget) -> bytes:
        """Read with retries while there is time."""
        try:
            # a context, not the decorator: that would log the arguments
            for attempt in stamina.retry_context(
                on=_Transient,
                attempts=self._attempts,
                timeout=self._timeout_s,
                wait_initial=0.1,
                wait_max=1.0,
            ):
                if attempt.num > 1:
                    self._on_retry()
                with attempt:
                    return read(uri, budget)
        except _Transient as error:
            budget.check_time()
            raise ItemError(
                "fetch_failed",
                f"{safe_uri(uri)} could not be read: {error}",
                hint="try again later",
            ) from None
        raise AssertionError("the last attempt returns or raises")

    # ---- files ----------------------------------------------------------------------------------

    def _file(self, uri: str, budget: _Budget) -> bytes:
        path = self._path(uri)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as stream:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode):
                    raise _missing(uri, "is no file")
                if found.st_size > budget.max_bytes:
                    raise budget.too_large()
                return budget.read(stream.read)
        except FileNotFoundError:
            raise _missing(uri, "does not exist") from None
        except OSError as error:
            raise _missing(uri, f"cannot be read ({error.strerror})") from None

    def _path(self, uri: str) -> Path:
        """The file's path with links followed. Raises ItemError when it is outside the roots."""
        if uri[:5].lower() == "file:":
            parts = urlsplit(uri)
            if parts.netloc not in ("", "localhost"):
                raise _refused(uri, "names a host", "write file:///path")
            path = Path(unquote(parts.path))
        else:
            path = Path(uri)
        if not path.is_absolute():
            if self._base is None:
                raise _refused(uri, "is a relative path", "write the whole path or a URI")
            path = self._base / path
        try:
            path = path.resolve()
        except (OSError, ValueError, RuntimeError):
            raise _missing(uri, "is no path") from None
        if not any(path.is_relative_to(root) for root in self._roots):
            hint = "add its folder to RERANK_ALLOWED_ROOTS"
            raise _refused(uri, "is in no allowed folder", hint)
        return path

    # ---- S3 -------------------------------------------------------------------------------------

    def _s3(self, uri: str, budget: _Budget) -> bytes:
        bucket, _, key = uri.partition("://")[2].partition("/")
        if bucket not in self._buckets and not self._is_under_prefix(uri):
            hint = f"add it to RERANK_ALLOWED_BUCKETS: RERANK_ALLOWED_BUCKETS={bucket}"
            raise _refused(uri, f"is in the bucket {bucket!r}, which is not allowed", hint)
        if not key:
            raise _missing(uri, "names no object")
        try:
            with _s3_errors(budget), Deadline(budget.check_time()):
                answer = self._client().get_object(Bucket=bucket, Key=key)
                with closing(answer["Body"]) as body:
                    if answer.get("ContentLength", 0) > budget.max_bytes:
                        raise budget.too_large()
                    return budget.read(body.read)
        except CredentialsRefused:
            self._s3_client = None  # the next one reads the credentials anew
            raise

    def _is_under_prefix(self, uri: str) -> bool:
        return uri.startswith(self._prefixes) and "/../" not in uri  # some servers resolve it

    def _client(self) -> Any:
        with self._s3_lock:  # the default session is not made for threads
            if self._s3_client is None:
                import boto3  # half a second of import that only s3:// users pay
                from botocore import awsrequest
                from botocore.config import Config

                for pool in (awsrequest.AWSHTTPConnectionPool, awsrequest.AWSHTTPSConnectionPool):
                    pool.ConnectionCls = cuttable(pool.ConnectionCls)
                config = Config(
                    retries={"mode": "standard", "total_max_attempts": 1},  # we try again
                    max_pool_connections=self._connections,
                    connect_timeout=min(5.0, self._timeout_s),
                    read_timeout=self._timeout_s,
                    tcp_keepalive=True,
                )
                # a session of its own: the default one keeps the credentials it found first
                self._s3_client = boto3.Session().client("s3", config=config)
            return self._s3_client

    # ---- HTTP -----------------------------------------------------------------------------------

    def _http(self, uri: str, budget: _Budget) -> bytes:
        for _ in range(REDIRECTS_MAX + 1):
            target = self._target(uri)
            with _http_errors(budget), _answer(target, budget) as answer:
                if answer.status not in REDIRECTS:
                    return _body(answer, uri, budget)
                uri = urljoin(uri, answer.headers.get("location") or "")
        raise ItemError(
            "fetch_failed",
            f"{safe_uri(budget.uri)} redirects more than {REDIRECTS_MAX} times",
            hint="name where it leads to",
        )

    def _target(self, uri: str) -> _Target:
        """Where to connect to. Raises ItemError unless host and address are allowed."""
        try:
            parts = urlsplit(uri)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise _refused(uri, "is no valid URL", "check it") from None
        if parts.scheme not in PORTS or not host:
            raise _refused(uri, "is no valid URL", "use https://host/path")
        with_port = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        meant = with_port in self._hosts or (host in self._hosts and _is_address(host))
        if not meant and (host not in self._hosts or port not in (None, PORTS[parts.scheme])):
            named = host if port is None else with_port
            raise _refused(
                uri,
                f"is on the host {named}, which is not allowed",
                f"add it to RERANK_ALLOWED_HOSTS: RERANK_ALLOWED_HOSTS={named}",
            )
        port = port or PORTS[parts.scheme]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        path = quote(path, safe=URL_CHARACTERS)  # what is written unquoted, like a space
        address = _resolved(uri, host, port, private=meant)
        return _Target(parts.scheme, host, port, address, path)


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL whose address was checked."""

    scheme: str
    host: str
    port: int
    address: str
    path: str

    def connection(self, timeout_s: float) -> HTTPConnection:
        """To the checked address, whatever the name means by now. No proxies."""
        where = {"host": self.address, "port": self.port, "timeout": timeout_s}
        if self.scheme == "http":
            return cast(HTTPConnection, _HTTP(**where))
        verified = {"server_hostname": self.host, "assert_hostname": self.host}
        return cast(HTTPConnection, _HTTPS(**where, **verified, cert_reqs="CERT_REQUIRED"))

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers, with the name that the address was resolved from."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = self.port == PORTS[self.scheme]
        return {
            "Host": host if default else f"{host}:{self.port}",
            "User-Agent": "rerankfleet",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _resolved(uri: str, host: str, port: int, *, private: bool) -> str:
    """The first address of a host. Raises ItemError when any of them is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise _Transient("its host name cannot be resolved now") from None
        raise _missing(uri, "has a host that does not exist") from None
    except UnicodeError:
        raise _refused(uri, "is no valid URL", "check it") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not private and not all(_is_public(address) for address in addresses):
        raise _refused(
            uri,
            "leads to a private address",
            f"if you mean it, name the port: RERANK_ALLOWED_HOSTS={host}:{port}",
        )
    return addresses[0]


def _is_public(text: str) -> bool:
    """Whether an address is one of the open network, also where it wraps an IPv4 address."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif inner := address.ipv4_mapped or address.sixtofour:
            address = inner
        elif address.teredo:
            return False
    return address.is_global and not address.is_multicast


@contextmanager
def _answer(target: _Target, budget: _Budget) -> Iterator[BaseHTTPResponse]:
    """The answer to a GET; the connection is cut when the time is over, even if it still speaks."""
    connection = target.connection(budget.check_time())
    with closing(connection), Deadline(budget.check_time()):
        connection.request(
            "GET", target.path, headers=target.headers, preload_content=False, decode_content=False
        )
        yield connection.getresponse()


def _body(answer: BaseHTTPResponse, uri: str, budget: _Budget) -> bytes:
    """The bytes of an answer that is well. Raises ItemError or _Transient by its status."""
    status = answer.status
    if status in (404, 410):
        raise _missing(uri, f"does not exist ({status})")
    if status >= 500 or status in (408, 429):
        raise _Transient(f"its host answered {status}")
    if status != 200:
        hint = "a signed link may have expired" if status in (401, 403) else "check the link"
        raise ItemError("fetch_failed", f"{safe_uri(uri)} was answered with {status}", hint=hint)
    announced = answer.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > budget.max_bytes:
        raise budget.too_large()
    found = budget.read(lambda size: answer.read1(size))
    if announced.isdecimal() and len(found) != int(announced):
        raise _Transient("the connection broke")
    return found


@contextmanager
def _http_errors(budget: _Budget) -> Iterator[None]:
    """Turn what a connection raises into our errors, without its message: it may hold the URL."""
    try:
        yield
    except (CertificateError, ssl.SSLCertVerificationError):
        raise ItemError(
            "fetch_failed",
            f"the certificate of the host of {safe_uri(budget.uri)} is not trusted",
            hint="check its name and who signed it",
        ) from None
    except (HTTPError, HTTPException, OSError) as error:
        budget.check_time()  # a connection cut by the clock is over its time
        late = isinstance(error, HTTPTimeoutError | TimeoutError)
        if late and not isinstance(error, NewConnectionError):  # refused, not late
            raise budget.timeout() from None
        raise _Transient(f"the connection broke ({type(error).__name__})") from None


@contextmanager
def _s3_errors(budget: _Budget) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "boto3", "urllib3")):
            raise
        found = _s3_error(budget.uri, error)
        if isinstance(found, _Transient):
            budget.check_time()  # a connection cut by the clock is over its time
        raise found from None


def _s3_error(uri: str, error: Exception) -> Exception:
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code") or type(error).__name__)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _CREDENTIALS:
        return CredentialsRefused(
            f"S3 refused the credentials ({code})", hint="renew them, then resume the job"
        )
    if code in _MISSING:
        return _missing(uri, f"does not exist ({code})")
    if 400 <= status < 500 and status not in (408, 429):
        return ItemError(
            "fetch_failed",
            f"{safe_uri(uri)} was refused ({code})",
            hint="the credentials may not read it; without the right to list, S3 says so also of"
            " what does not exist",
        )
    return _Transient(f"S3 did not answer well ({code})")


# ---- data: --------------------------------------------------------------------------------------


def _data(uri: str, budget: _Budget) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _refused(uri, "is not base64", "write data:image/png;base64,...")
    if len(body) * 3 // 4 > budget.max_bytes + 2:
        raise budget.too_large()
    try:
        found = base64.b64decode(unquote(body).translate(_URL_SAFE), validate=True)
    except (binascii.Error, ValueError):
        raise ItemError(
            "fetch_failed", f"{safe_uri(uri)} is damaged base64", hint="encode it anew"
        ) from None
    if len(found) > budget.max_bytes:
        raise budget.too_large()
    return found


def _refused(uri: str, why: str, hint: str) -> ItemError:
    return ItemError("refused_source", f"{safe_uri(uri)} {why}", hint=hint)


def _missing(uri: str, why: str) -> ItemError:
    return ItemError("not_found", f"{safe_uri(uri)} {why}", hint="check the address")
