"""Bytes by URI: only from where it was allowed, within bytes and time, and no secret is shown."""

from __future__ import annotations

import base64
import errno
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import stamina

from rerankfleet.shared.addresses import file_uri, path_address, safe_uri, scheme_of
from rerankfleet.shared.content.outcomes import RETRYABLE
from rerankfleet.shared.errors import CredentialsRefused, ItemError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.workers.images import http as module
from rerankfleet.workers.images.fetch import Fetcher
from rerankfleet.workers.images.turns import Signal
from tests.support.tls import self_signed
from tests.support.wait import patient, wait_until

BODY = b"bytes of an image" * 1000
SECRET = "X-Amz-Signature=very-secret"

WAIT_S = patient(20)


class Site(ThreadingHTTPServer):
    """A web server that behaves as its paths say, and records which were requested."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.requested: list[str] = []
        self.redirect_to = ""
        self.over = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def first_request(self, path: str) -> bool:
        return self.requested.count(path) == 1

    def uri(self, path: str) -> str:
        return f"http://{self.host}/{path}?{SECRET}"


class Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.requested.append(path)
        name, _, argument = path.rpartition("/")[2].partition("-")
        answers: dict[str, Callable[[str], None]] = {
            "ok": lambda _: self._send(200, BODY),
            "status": lambda status: self._send(int(status), b"a body with secrets"),
            "once": lambda _: self._send(
                503 if self.server.requested.count(path) == 1 else 200, BODY
            ),
            "redirect": lambda _: self._redirect(self.server.redirect_to),
            "hops": lambda left: self._redirect(f"/hops-{int(left) - 1}" if int(left) else "/ok"),
            "cut": lambda _: self._send(200, BODY[:100], length=len(BODY)),
            "endless": lambda _: self._drip(b"x" * (64 << 10), 0),
            "slow": lambda _: self._drip(b"x", 0.05),
            "announced": lambda _: self._drip(b"x", 0.05, length=len(BODY)),
            "headers": lambda _: self._drip_headers(0.05),
            "garbage": lambda _: self._raw(b"no http at all\r\n\r\n"),
            "host": lambda _: self._send(200, self.headers["Host"].encode()),
            "login": lambda _: self._send(200, self.headers.get("Authorization", "").encode()),
        }
        try:
            answers[name](argument)
        except OSError:
            pass  # the client went away

    def _send(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _raw(self, data: bytes) -> None:
        self.wfile.write(data)
        self.close_connection = True

    def _redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.end_headers()

    def _drip(self, chunk: bytes, pause_s: float, length: int | None = None) -> None:
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        while not self.server.over.wait(pause_s):
            self.wfile.write(chunk)

    def _drip_headers(self, pause_s: float) -> None:
        self._raw(b"HTTP/1.0 200 OK\r\nX-Long: ")
        while not self.server.over.wait(pause_s):
            self.wfile.write(b"x")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def fetcher(site: Site) -> Fetcher:
    return Fetcher(allowed_hosts=(site.host, "localhost"), max_bytes=1 << 20)


@pytest.fixture(autouse=True)
def _at_once() -> Iterator[None]:
    """Retries happen at once."""
    stamina.set_testing(True, attempts=2)
    yield
    stamina.set_testing(False)


def error_of(fetcher: Fetcher, uri: str) -> ItemError:
    """The outcome of a URI that cannot be read, which says what to do and shows no secret."""
    with pytest.raises(ItemError) as caught:
        fetcher.fetch(uri)
    assert "secret" not in str(caught.value)
    assert caught.value.hint
    return caught.value


# ---- HTTP ---------------------------------------------------------------------------------------


def test_an_allowed_host_is_read_under_its_own_name(fetcher, site):
    assert fetcher.fetch(site.uri("ok")) == BODY
    port = site.server_address[1]
    named = Fetcher(allowed_hosts=(f"localhost:{port}",))
    assert named.fetch(f"http://localhost:{port}/host") == f"localhost:{port}".encode()


def test_unquoted_characters_of_an_address_are_quoted(fetcher, site):
    assert fetcher.fetch(f"http://{site.host}/ok-ä b%20c.jpg?size=1 2") == BODY
    assert site.requested == ["ok-%C3%A4%20b%20c.jpg"]


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("HTTP://{host}/ok", "ok"),
        (" http://{host}/ok\n", "ok"),
        ("http://{host}/ok-图 片\u3000%25.jpg#part", "ok-%E5%9B%BE%20%E7%89%87%E3%80%80%25.jpg"),
        ("http://{host}/ok-\udce4", "ok-%E4"),
        ("http://{host}/a/../ok-;b:c@d", "a/../ok-;b:c@d"),
    ],
)
def test_an_address_is_read_as_a_browser_would(fetcher, site, written, asked):
    assert fetcher.fetch(written.format(host=site.host)) == BODY
    assert site.requested == [asked]


def test_hosts_are_compared_in_lower_case_and_ascii(site, monkeypatch):
    monkeypatch.setattr(module, "_resolved", lambda *_, **__: "127.0.0.1")
    port = site.server_address[1]
    fetcher = Fetcher(allowed_hosts=(f"xn--mnchen-3ya.test:{port}", f"localhost:{port}"))
    named = f"xn--mnchen-3ya.test:{port}".encode()
    assert fetcher.fetch(f"http://MÜNCHEN.test:{port}/host") == named
    assert fetcher.fetch(f"http://LOCALHOST:{port}/host") == f"localhost:{port}".encode()
    fetcher = Fetcher(allowed_hosts=(f"München.test:{port}",))
    assert fetcher.fetch(f"http://mÜnchen.test:{port}/host") == named
    assert fetcher.fetch(f"http://XN--MNCHEN-3ya.test:{port}/host") == named


def basic(login: str) -> bytes:
    return b"Basic " + base64.b64encode(login.encode())


def test_a_login_is_sent_to_its_own_host_and_to_no_other(fetcher, site):
    port = site.server_address[1]
    fetcher = Fetcher(allowed_hosts=(site.host, f"localhost:{port}"))
    assert fetcher.fetch(f"http://{site.host}/login") == b""
    mine = f"http://user:very-secret%40ü@{site.host}"
    assert fetcher.fetch(f"{mine}/login") == basic("user:very-secret@ü")
    for to, sent in {
        "/login": basic("user:very-secret@ü"),
        f"http://{site.host}/login": basic("user:very-secret@ü"),
        f"http://localhost:{port}/login": b"",
        f"http://other:pw@localhost:{port}/login": basic("other:pw"),
    }.items():
        site.redirect_to = to
        assert fetcher.fetch(f"{mine}/redirect") == sent


def test_no_failure_shows_a_login(fetcher, site):
    for path in ("status-404", "status-401", "status-500", "hops-9", "endless", "garbage", "none"):
        error_of(fetcher, f"http://user:very-secret@{site.host}/{path}")
    for to in ("http://user:very-secret@127.0.0.1:1/", "ftp://user:very-secret@h/", "http://a b/"):
        site.redirect_to = to
        assert error_of(fetcher, f"http://{site.host}/redirect").code == "refused_source"
    error_of(fetcher, "s3://key:very-secret@bucket/a.jpg")
    error_of(fetcher, "http://user:very/secret@127.0.0.1/a.jpg")


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("status-404", "not_found", "does not exist (404)"),
        ("status-410", "not_found", "does not exist (410)"),
        ("status-403", "unreadable", "may have expired"),
        ("status-418", "unreadable", "answered with 418"),
        ("status-500", "fetch_failed", "answered 500"),
        ("garbage", "fetch_failed", "connection broke"),
        ("cut", "fetch_failed", "connection broke"),
        ("endless", "too_large", "1,048,576 bytes"),
        ("hops-9", "unreadable", "redirects more than 3 times"),
    ],
)
def test_each_failure_has_its_outcome(fetcher, site, path, code, words):
    error = error_of(fetcher, site.uri(path))
    assert error.code == code
    assert words in str(error)
    assert site.host in str(error)


def test_only_transient_failures_are_retried(fetcher, site):
    assert fetcher.fetch(site.uri("once")) == BODY
    assert site.requested == ["once", "once"]
    error_of(fetcher, site.uri("status-404"))
    assert site.requested.count("status-404") == 1


def test_further_attempts_are_reported(site):
    retries = []
    fetcher = Fetcher(allowed_hosts=(site.host,), on_retry=lambda: retries.append("again"))

    for path in ("ok", "once", "status-404"):
        with suppress(ItemError):
            fetcher.fetch(site.uri(path))

    assert retries == ["again"]


@pytest.mark.parametrize("path", ["slow", "announced", "headers"])
def test_a_slow_host_costs_the_time_limit_and_no_more(site, path):
    fetcher = Fetcher(allowed_hosts=(site.host,), timeout_s=0.4)
    start = time.monotonic()
    assert error_of(fetcher, site.uri(path)).code == "timeout"
    assert time.monotonic() - start < 2


def test_redirects_are_followed_where_they_are_allowed(fetcher, site):
    assert fetcher.fetch(site.uri("hops-2")) == BODY


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("http://localhost/?secret", "private address"),  # allowed as a public host only
        ("http://169.254.169.254/latest/meta-data/?secret", "not allowed"),
        ("http://127.0.0.1:1/?secret", "not allowed"),
        ("file:///etc/passwd?secret", "not a valid URL"),
        ("s3://bucket/key?secret", "not a valid URL"),
    ],
)
def test_a_redirect_is_checked_like_the_first_address(fetcher, site, to, words):
    site.redirect_to = to
    error = error_of(fetcher, site.uri("redirect"))
    assert error.code == "refused_source"
    assert words in str(error)


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.com/a.jpg",
        "https://user:very-secret@example.com/a.jpg?very-secret",
        "http://127.0.0.1/",
        "http://localhost:8080/",
        "http://[::1]/",
        "http:///a.jpg",
        "http://exa mple:x/",
        "ftp://example.com/a.jpg",
        "gopher://localhost/",
    ],
)
def test_hosts_that_are_not_allowed_are_not_contacted(fetcher, uri):
    assert error_of(fetcher, uri).code == "refused_source"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("224.0.0.1", "ff02::1"),
    ],
)
def test_a_name_that_leads_to_a_private_address_is_refused(monkeypatch, address):
    entries = [(0, 0, 0, "", ("93.184.215.14", 443)), (0, 0, 0, "", (address, 443))]
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: entries)
    error = error_of(Fetcher(allowed_hosts=("example.com",)), "https://example.com/a")
    assert (error.code, "private address" in str(error)) == ("refused_source", True)


def test_the_connection_goes_to_the_address_that_was_checked(site, monkeypatch):
    """Given a name that resolves to something else each time."""
    port, resolved = site.server_address[1], []

    def resolve(host, *_, **__):
        resolved.append(host)
        return [(module.socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(module, "_resolved", lambda uri, host, *_, **__: resolve(host)[0][4][0])
    fetcher = Fetcher(allowed_hosts=(f"images.test:{port}",))
    assert fetcher.fetch(f"http://images.test:{port}/host") == f"images.test:{port}".encode()
    assert resolved == ["images.test"]


def test_a_host_that_is_down_is_a_failure_of_its_items(site):
    with Site() as gone:
        host = gone.host
    error = error_of(Fetcher(allowed_hosts=(host,)), f"http://{host}/a?secret")
    assert error.code == "fetch_failed"


def test_https_is_verified_by_name_though_the_address_is_pinned(site, tmp_path, monkeypatch):
    # given a server with a certificate for localhost
    certificate, key = self_signed("localhost", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    port = site.server_address[1]
    fetcher = Fetcher(allowed_hosts=(f"localhost:{port}", f"127.0.0.1:{port}"))
    # when it is not trusted, nothing is read
    assert "not trusted" in str(error_of(fetcher, f"https://localhost:{port}/ok?secret"))
    # when it is trusted, it is read under its name, and under no other
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetcher.fetch(f"https://localhost:{port}/host") == f"localhost:{port}".encode()
    assert "not trusted" in str(error_of(fetcher, f"https://127.0.0.1:{port}/ok?secret"))


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a b.jpg").write_bytes(BODY)
    (tmp_path / "outside.jpg").write_bytes(BODY)
    return images


@pytest.fixture
def files(folder: Path) -> Fetcher:
    return Fetcher(allowed_roots=(folder,), base=folder, max_bytes=len(BODY))


def test_files_in_allowed_folders_are_read(files, folder):
    for uri in ("a b.jpg", str(folder / "a b.jpg"), f"file://{folder}/a%20b.jpg"):
        assert files.fetch(uri) == BODY


ODD_NAMES = [
    *("a#1.jpg", "a?b.jpg", "a%41.jpg", "aA.jpg", "100%.jpg", "a;b.jpg", "a:b.jpg", "a\tb.jpg"),
    *("a\nb.jpg", "a.jpg", "a.jpg ", " a.jpg", "ü.jpg", "u\u0308.jpg", "图片.jpg", "\udcff.jpg"),
    *("file:a.jpg", "data:a.jpg", "x:/a.jpg", "a\\b.jpg", "%FF.jpg", "a%231.jpg", "a\u2028b.jpg"),
]


@pytest.mark.parametrize("inside", ["", "50% #1?/"])
def test_what_a_folder_lists_is_what_is_read(folder, inside):
    """Given files whose names address others when they are taken for URLs."""
    root = folder / inside
    for name in ODD_NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    objects = Objects(Settings(allowed_roots=(folder,)))
    files = Fetcher(allowed_roots=(folder,), base=root)

    listed = list(objects.listing(f"{file_uri(root)}/"))

    read = {files.fetch(uri) for uri in listed}
    assert read - {BODY} == {os.fsencode(name) for name in ODD_NAMES}
    for uri in listed:
        assert objects.read(uri) == files.fetch(uri)
    for name in ODD_NAMES:  # as whole paths, as addresses, and as relative paths
        ways = [str(root / name), path_address(str(root / name)), path_address(name)]
        ways += [] if scheme_of(name) else [name]
        for way in ways:
            assert files.fetch(way) == os.fsencode(name)


def test_the_ways_to_write_a_file_address(files, folder):
    (folder / "a?b#c").write_bytes(b"odd")
    for uri in (
        f"FILE://{folder}/a b.jpg",
        f"file:{folder}/a%20b.jpg",
        f"file://localhost{folder}/a b.jpg",
        f" file://{folder}/a b.jpg\n",
        "file:a%20b.jpg",
    ):
        assert files.fetch(uri) == BODY
    assert files.fetch(f"file://{folder}/a?b#c") == b"odd"
    assert "a?b#d does not exist" in str(error_of(files, f"file://{folder}/a?b#d"))
    assert error_of(files, "a\ud800").code == "not_found"


def test_files_elsewhere_are_refused_before_one_knows_whether_they_exist(files, folder):
    (folder / "link.jpg").symlink_to(folder.parent / "outside.jpg")
    for uri in (
        "file:///etc/passwd",
        "/etc/passwd",
        "/etc/does-not-exist",
        "../outside.jpg",
        "link.jpg",
        f"file://{folder}/../outside.jpg",
        "file://elsewhere/etc/passwd",
    ):
        assert error_of(files, uri).code == "refused_source"
    assert error_of(Fetcher(allowed_roots=(folder,)), "a b.jpg").code == "refused_source"


def test_what_is_not_a_file_or_too_large_has_its_outcome(files, folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "big.jpg").write_bytes(BODY + b"x")
    for name, code in {
        "none.jpg": "not_found",
        "pipe.jpg": "not_found",
        ".": "not_found",
        "a\0b": "not_found",
        "x" * 5000: "not_found",
        "big.jpg": "too_large",
    }.items():
        assert error_of(files, name).code == code


def test_a_link_of_git_annex_to_a_file_that_was_not_fetched_is_named(files, folder):
    (folder / "c.jpg").symlink_to(".git/annex/objects/Xx/1/MD5E-s9--0.jpg/MD5E-s9--0.jpg")
    error = error_of(files, "c.jpg")
    assert (error.code, "git annex get" in error.hint) == ("not_found", True)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, "unreadable"),
        (errno.EPERM, "unreadable"),
        (errno.ELOOP, "not_found"),
        (errno.EIO, "fetch_failed"),
        (errno.EMFILE, "fetch_failed"),
        (errno.ESTALE, "fetch_failed"),
    ],
)
def test_what_the_system_refuses_is_retried_only_where_that_may_help(
    files, monkeypatch, number, code
):
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("rerankfleet.workers.images.fetch.os.open", refuse)
    error = error_of(files, "a b.jpg")
    assert error.code == code
    assert os.strerror(number) in error.message
    assert (code in RETRYABLE) == ("again" in error.hint)


# ---- data: --------------------------------------------------------------------------------------


def test_data_uris_are_decoded_within_their_bytes():
    fetcher = Fetcher(max_bytes=len(BODY))
    encoded = base64.b64encode(BODY).decode()
    assert fetcher.fetch(f"data:image/png;base64,{encoded}") == BODY
    for uri, code in {
        f"data:image/png;base64,{encoded}AAAA": "too_large",
        f"data:image/png;base64,{'A' * 10 * len(BODY)}": "too_large",
        f"data:image/png,{'%00' * len(BODY)}%00": "too_large",
        "data:image/png;base64,secret!": "invalid_image",
        "data:": "invalid_image",
    }.items():
        assert error_of(fetcher, uri).code == code


# ---- S3 -----------------------------------------------------------------------------------------


@pytest.fixture
def bucket(s3) -> Fetcher:
    s3.put_object(Bucket="pairs", Key="a/b c.jpg", Body=BODY)
    return Fetcher(allowed_buckets=("pairs", "none"), max_bytes=len(BODY))


def test_objects_of_allowed_buckets_are_read(bucket, s3):
    assert bucket.fetch("s3://pairs/a/b c.jpg") == BODY
    s3.put_object(Bucket="pairs", Key="big.jpg", Body=BODY + b"x")
    for uri, code in {
        "s3://pairs/none.jpg": "not_found",
        "s3://none/a.jpg": "not_found",
        "s3://pairs/": "not_found",
        "s3://pairs/big.jpg": "too_large",
        "s3://other/a.jpg": "refused_source",
    }.items():
        assert error_of(bucket, uri).code == code


def test_what_a_prefix_lists_is_what_is_read(s3):
    """Given keys that address others when they are taken for URLs or paths."""
    keys = ["p/a?b", "p/a", "p/a#b", "p/a%41", "p/aA", "p//a", "p/x..a", "p/a ", "p/ a", "p/ü;:"]
    for key in keys:
        s3.put_object(Bucket="pairs", Key=key, Body=key.encode())
    fetcher = Fetcher(allowed_buckets=("pairs",))

    listed = list(Objects(Settings(allowed_buckets=("pairs",))).listing("s3://pairs/p/"))

    assert sorted(fetcher.fetch(uri).decode() for uri in listed) == sorted(keys)
    assert fetcher.fetch("S3://pairs/p/a?b") == b"p/a?b"
    for key in ("p/a?c#d", "p/%", "p/e "):
        assert f"s3://pairs/{key} does not exist" in str(error_of(fetcher, f"s3://pairs/{key}"))


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_refused_credentials_are_no_items_fault(bucket, monkeypatch, code):
    from botocore.exceptions import ClientError

    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "very-secret"}}, "GetObject")

    bucket.fetch("s3://pairs/a/b c.jpg")
    monkeypatch.setattr(bucket._s3_client, "get_object", refuse)
    with pytest.raises(CredentialsRefused, match=code) as caught:
        bucket.fetch("s3://pairs/a/b c.jpg")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "status", "outcome", "words"),
    [
        ("AccessDenied", 403, "unreadable", "credentials may not read it"),
        ("InvalidObjectState", 403, "unreadable", "archived"),
        ("PermanentRedirect", 301, "unreadable", "another region"),
        ("KMS.DisabledException", 400, "unreadable", "credentials may not read it"),
        ("SlowDown", 503, "fetch_failed", "again"),
        ("InternalError", 500, "fetch_failed", "again"),
    ],
)
def test_a_refusal_of_s3_is_not_retried(bucket, monkeypatch, code, status, outcome, words):
    from botocore.exceptions import ClientError

    calls = []

    def refuse(**_: object) -> None:
        calls.append(1)
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(answer, "GetObject")

    bucket.fetch("s3://pairs/a/b c.jpg")
    monkeypatch.setattr(bucket._s3_client, "get_object", refuse)
    error = error_of(bucket, "s3://pairs/a/b c.jpg")
    assert (error.code, words in error.hint) == (outcome, True)
    assert (len(calls) == 1) == (outcome not in RETRYABLE)


def test_an_s3_that_does_not_answer_is_a_failure_after_retries(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    fetcher = Fetcher(allowed_buckets=("pairs",))
    assert error_of(fetcher, "s3://pairs/a.jpg").code == "fetch_failed"


@pytest.mark.parametrize("broken", [ConnectionResetError(104, "reset"), HTTPException("secret")])
def test_a_connection_to_s3_that_breaks_past_its_client_is_tried_again(bucket, monkeypatch, broken):
    calls = []

    def get(**_: object) -> None:
        calls.append(1)
        raise broken

    bucket.fetch("s3://pairs/a/b c.jpg")
    monkeypatch.setattr(bucket._s3_client, "get_object", get)
    assert error_of(bucket, "s3://pairs/a/b c.jpg").code == "fetch_failed"
    assert len(calls) > 1


@pytest.mark.parametrize("path", ["slow", "announced", "headers"])
def test_an_s3_that_drips_bytes_costs_the_time_limit_and_no_more(s3, site, monkeypatch, path):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{site.host}")
    fetcher = Fetcher(allowed_buckets=("pairs",), timeout_s=0.4)
    patience = threading.Timer(5, site.over.set)
    patience.start()
    # when an object comes slowly, but no single wait for a byte is too long
    error = error_of(fetcher, f"s3://pairs/{path}")
    # then the fetch ends while the host still sends
    assert (error.code, site.over.is_set()) == ("timeout", False)
    patience.cancel()
    # and the next object is read as ever
    monkeypatch.setattr(fetcher, "_timeout_s", 10)
    assert fetcher.fetch("s3://pairs/ok") == BODY


def test_missing_credentials_are_reported(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fetcher = Fetcher(allowed_buckets=("pairs",))
    with pytest.raises(CredentialsRefused, match="renew"):
        fetcher.fetch("s3://pairs/a.jpg")
    # and once they exist, they are used without a restart
    keys = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"
    (tmp_path / "none").write_text(keys)
    assert error_of(fetcher, "s3://pairs/a.jpg").code == "not_found"


# ---- what is shown ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:pw@host.com/a.jpg?sig=x#y", "https://host.com/a.jpg"),
        ("https://host.com/a@b.jpg", "https://host.com/a@b.jpg"),
        ("s3://bucket/key?a#b", "s3://bucket/key?a#b"),
        ("a/b?c#d.jpg", "a/b?c#d.jpg"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,… (26 characters)"),
        ("https://host.com/" + "x" * 300, "https://host.com/" + "x" * 183 + "…"),
    ],
)
def test_what_is_shown_of_a_uri(uri, shown):
    assert safe_uri(uri) == shown


@pytest.mark.parametrize("path", ["slow", "announced", "headers", "endless"])
def test_a_fetch_that_nobody_waits_for_ends_while_the_host_sends(site, path):
    """Given a host that never ends its answer, and far more time and bytes than the test has."""
    fetcher = Fetcher(allowed_hosts=(site.host,), max_bytes=1 << 40, timeout_s=10 * WAIT_S)
    unwanted = Signal()
    with ThreadPoolExecutor(1) as threads:
        fetching = threads.submit(fetcher.fetch, site.uri(path), unwanted)
        wait_until(lambda: site.requested)
        unwanted.set()

        assert isinstance(fetching.exception(WAIT_S), CancelledError)


def test_what_nobody_waits_for_is_not_even_begun(site, fetcher):
    unwanted = Signal()
    unwanted.set()

    with pytest.raises(CancelledError):
        fetcher.fetch(site.uri("ok"), unwanted)
    assert not site.requested
