"""GET of an image over HTTP or HTTPS, from allowed hosts only.

An address is resolved once and the connection goes to what was checked; each redirect is checked
like the first address. Nothing of a query string reaches a message: signed URLs hold secrets there.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException, LineTooLong, UnknownProtocol
from typing import cast
from urllib.parse import quote, urljoin, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, InvalidHeader, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util.ssl_match_hostname import CertificateError

from rerankfleet.shared.addresses import canonical, canonical_host, login_of, scheme_of
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.workers.images.budget import Budget, Transient, missing, refused, unreadable
from rerankfleet.workers.images.deadline import Deadline, cuttable
from rerankfleet.workers.images.encodings import unpacked

REDIRECTS_MAX = 3
PORTS = {"https": 443, "http": 80}
URL_CHARACTERS = "%/?:@!$&'()*+,;=-._~[]"
REDIRECTS = (301, 302, 303, 307, 308)
_DIGITS = 18
"""A length of more is larger than any limit; Python reads none of thousands."""
_NO_SUCH_HOST = frozenset(
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
)
_NO_COMMON_TLS = frozenset(
    {
        "HTTP_REQUEST",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
        "TLSV1_ALERT_PROTOCOL_VERSION",
        "TLSV1_UNRECOGNIZED_NAME",
        "UNSUPPORTED_PROTOCOL",
        "WRONG_VERSION_NUMBER",
    }
)
"""Reasons of OpenSSL for which another try would fail too."""

_HTTP, _HTTPS = cuttable(HTTPConnection), cuttable(HTTPSConnection)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class HttpReader:
    """Reads from allowed hosts; safe to use from many threads.

    allowed_hosts: as of `Fetcher`.
    """

    def __init__(self, allowed_hosts: Sequence[str]) -> None:
        self._hosts = frozenset(map(_as_compared, allowed_hosts))

    def read(self, uri: str, budget: Budget) -> bytes:
        """The body of the answer to a canonical URL, redirects followed. Raises ItemError or
        Transient."""
        before: _Target | None = None
        for _ in range(REDIRECTS_MAX + 1):
            target = self._target(uri, before)
            with _http_errors(budget), _answer(target, budget) as answer:
                if answer.status not in REDIRECTS:
                    return _body(answer, uri, budget)
                before, uri = target, _redirected(uri, answer.headers.get("location"), budget)
        raise unreadable(
            budget.uri,
            f"redirects more than {REDIRECTS_MAX} times",
            "use the address that it leads to",
        )

    def _target(self, uri: str, before: _Target | None = None) -> _Target:
        """Where to connect to, after the redirect from `before`. Raises ItemError unless host and
        address are allowed."""
        try:
            parts = urlsplit(uri)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise refused(uri, "is not a valid URL", "check it") from None
        if parts.scheme not in PORTS or not host:
            raise refused(uri, "is not a valid URL", "use https://host/path")
        with_port = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        private = with_port in self._hosts or (host in self._hosts and _is_address(host))
        if not private and (host not in self._hosts or port not in (None, PORTS[parts.scheme])):
            named = host if port is None else with_port
            raise refused(
                uri,
                f"is on the host {named}, which is not allowed",
                f"add it to RERANK_ALLOWED_HOSTS: RERANK_ALLOWED_HOSTS={named}",
            )
        port = port or PORTS[parts.scheme]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        path = quote(path, safe=URL_CHARACTERS)  # a space, for one, may be unquoted
        address = _resolved(uri, host, port, private=private)
        target = _Target(parts.scheme, host, port, address, path, login_of(parts.netloc))
        if before and not target.login and target.origin == before.origin:
            target = replace(target, login=before.login)  # for no other host
        return target


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL with the address that was checked."""

    scheme: str
    host: str
    port: int
    address: str
    path: str
    login: str = field(default="", repr=False)
    """`user:password`, or empty."""

    @property
    def origin(self) -> tuple[str, str, int]:
        """Who is asked: a login is meant for nobody else."""
        return self.scheme, self.host, self.port

    def connection(self, timeout_s: float) -> HTTPConnection:
        """To the checked address, whatever the name resolves to by now. No proxies."""
        options = {"host": self.address, "port": self.port, "timeout": timeout_s}
        if self.scheme == "http":
            return cast(HTTPConnection, _HTTP(**options))
        verified = {"server_hostname": self.host, "assert_hostname": self.host}
        return cast(HTTPConnection, _HTTPS(**options, **verified, cert_reqs="CERT_REQUIRED"))

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers, with the name that the address was resolved from."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = self.port == PORTS[self.scheme]
        headers = {
            "Host": host if default else f"{host}:{self.port}",
            "User-Agent": "rerankfleet",
            "Accept": "image/*",
            "Accept-Encoding": "identity",
        }
        if self.login:
            login = base64.b64encode(self.login.encode("utf-8", "surrogateescape"))
            headers["Authorization"] = f"Basic {login.decode()}"
        return headers


def _redirected(uri: str, location: str | None, budget: Budget) -> str:
    """Where a redirect leads. Raises ItemError when that is no URL."""
    if not location:
        why = "redirects without saying where to"
        raise unreadable(budget.uri, why, "look at what the address leads to")
    try:
        raw = location.encode("latin-1").decode("utf-8", "surrogateescape")
        to = canonical(urljoin(uri, raw))
    except (UsageError, ValueError):
        to = ""
    if scheme_of(to) not in PORTS:
        raise refused(budget.uri, "redirects to what is not a valid URL", "check where it leads")
    return to


def _as_compared(host: str) -> str:
    """An allowed host in the form of canonical URLs; an IPv6 address has no brackets there."""
    try:
        return canonical_host(host)
    except UsageError:
        return host.lower()


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _resolved(uri: str, host: str, port: int, *, private: bool) -> str:
    """The first address of a host. Raises ItemError if any is private and `private` is not set."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno not in _NO_SUCH_HOST:
            raise Transient("its host name cannot be resolved now") from None
        raise missing(uri, "has a host that does not exist") from None
    except (ValueError, OverflowError):  # UnicodeError is one of them
        raise refused(uri, "is not a valid URL", "check it") from None
    addresses = [str(entry[4][0]) for entry in entries]
    if not private and not all(_is_public(address) for address in addresses):
        raise refused(
            uri,
            "leads to a private address",
            f"if you mean it, name the port: RERANK_ALLOWED_HOSTS={host}:{port}",
        )
    return addresses[0]


def _is_public(text: str) -> bool:
    """Whether an address is on the public internet, also where it wraps an IPv4 address."""
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
def _answer(target: _Target, budget: Budget) -> Iterator[BaseHTTPResponse]:
    """The answer to a GET; the connection is cut at the deadline, even while the host sends."""
    connection = target.connection(budget.check_time())
    with closing(connection), Deadline(budget.check_time(), budget.unwanted):
        connection.request(
            "GET", target.path, headers=target.headers, preload_content=False, decode_content=False
        )
        yield connection.getresponse()


def _body(answer: BaseHTTPResponse, uri: str, budget: Budget) -> bytes:
    """The body of an answer of status 200. Raises ItemError or Transient by its status."""
    status = answer.status
    if status in (404, 410):
        raise missing(uri, f"does not exist ({status})")
    if status >= 500 or status in (408, 429):
        raise Transient(f"its host answered {status}")
    if status != 200:
        hint = "a signed link may have expired" if status in (401, 403) else "check the link"
        raise unreadable(uri, f"was answered with {status}", hint)
    announced = _announced(answer)
    if announced is not None and announced > budget.max_bytes:
        raise budget.too_large()
    data = budget.read(lambda size: answer.read1(size))
    if announced is not None and len(data) != announced:
        raise Transient("the connection broke")
    return unpacked(data, answer.headers.get("content-encoding"), budget)


def _announced(answer: BaseHTTPResponse) -> int | None:
    """The bytes that the answer says its body has, if it does: one in chunks need not."""
    length = answer.headers.get("content-length", "").strip()
    in_chunks = "chunked" in answer.headers.get("transfer-encoding", "").lower()
    if in_chunks or not (length.isascii() and length.isdecimal()):
        return None
    return int(length[-_DIGITS:]) if not length[:-_DIGITS].strip("0") else sys.maxsize


@contextmanager
def _http_errors(budget: Budget) -> Iterator[None]:
    """Turn what a connection raises into our errors, without its message: it may hold the URL."""
    try:
        yield
    except (CertificateError, ssl.SSLCertVerificationError):
        why = "has a host whose certificate is not trusted"
        raise unreadable(budget.uri, why, "check its name and its issuer") from None
    except (LineTooLong, InvalidHeader, UnknownProtocol, ValueError) as error:
        raise _nonsense(budget, error) from None
    except (HTTPError, HTTPException, OSError) as error:
        if _is_hopeless(error):
            raise _nonsense(budget, error) from None
        budget.check_time()  # was it cut by the deadline?
        timed_out = isinstance(error, HTTPTimeoutError | TimeoutError)
        if timed_out and not isinstance(error, NewConnectionError):  # that is a refusal
            raise budget.timeout() from None
        raise Transient(f"the connection broke ({type(error).__name__})") from None


def _nonsense(budget: Budget, error: Exception) -> ItemError:
    """The outcome of what no client can make sense of."""
    why = f"was answered with what is not valid HTTP ({type(error).__name__})"
    return unreadable(budget.uri, why, "check the address and its host")


def _is_hopeless(error: Exception) -> bool:
    """Whether a further try would fail too: too many headers, or a host without common TLS."""
    reasons = {getattr(one, "reason", None) for one in (error, *error.args)}
    return type(error) is HTTPException or not reasons.isdisjoint(_NO_COMMON_TLS)
