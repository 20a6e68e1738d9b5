"""Whatever a host answers is the outcome of one image, with a code of the list and no secret in it.

A server answers with the bytes of a case, whatever was asked.
"""

from __future__ import annotations

import random

import pytest

from rerankfleet.shared.content.outcomes import RETRYABLE
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.fetch import Fetcher
from tests.support.nonsense import OK, outcome

BODY = b"bytes of an image"
pytestmark = pytest.mark.usefixtures("at_once")

LENGTH = b"Content-Length: %d\r\n" % len(BODY)


def redirect(location: bytes) -> bytes:
    return b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        # lengths
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY, "too_large"),
        (OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n" + BODY, "too_large"),
        (OK + b"Content-Length: 99\r\n\r\n" + BODY, "fetch_failed"),
        (OK + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY, "unreadable"),
        # chunks
        (OK + b"Transfer-Encoding: chunked\r\n\r\nnot a size\r\n" + BODY, "fetch_failed"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n" + BODY, "fetch_failed"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n11\r\n" + BODY, "fetch_failed"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 9000 + b"\r\n", "fetch_failed"),
        # headers
        (OK + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n" + BODY, "unreadable"),
        (OK + b"X-Many: 1\r\n" * 1000 + b"\r\n" + BODY, "unreadable"),
        # status lines
        (b"HTTP/1.1 xyz OK\r\n\r\n" + BODY, "fetch_failed"),
        (b"HTTP/1.1 99999 OK\r\n\r\n" + BODY, "fetch_failed"),
        (b"HTTP/3.7 200 OK\r\n\r\n" + BODY, "unreadable"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "fetch_failed"),
        (b"HTTP/1.1 " + b"2" * 100_000 + b"\r\n\r\n", "unreadable"),
        (b"", "fetch_failed"),
        (b"\0" * 100, "fetch_failed"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "unreadable"),
        (b"HTTP/1.1 206 Partial Content\r\n" + LENGTH + b"\r\n" + BODY, "unreadable"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "unreadable"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "unreadable"),
        (b"HTTP/1.1 451 Unavailable\r\nContent-Length: 0\r\n\r\n", "unreadable"),
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", "fetch_failed"),
    ],
)
def test_nonsense_has_an_outcome(server, answer, code):
    error = outcome(server, answer)
    assert isinstance(error, ItemError), error
    assert error.code == code, error
    assert (server.requests == 1) == (code not in RETRYABLE)  # nothing hopeless is retried


@pytest.mark.parametrize(
    "location",
    [
        b"http://[",
        b"http://[::1",
        b"http://127.0.0.1:99999/",
        b"http://a\x00b/",
        b"http://\xff\xfe/",
        b"http://" + b"a" * 70 + b".com/",
        b"javascript:alert(1)",
        b"gopher://host/",
        b"data:image/png;base64,AAAA",
        b"file:///etc/passwd",
        b"//",
        b"http://xn--/",
        b"http://..../",
        b"",
    ],
)
def test_a_redirect_to_nowhere_is_neither_followed_nor_retried(server, location):
    error = outcome(server, redirect(location))
    assert isinstance(error, ItemError), error
    assert error.code in ("refused_source", "unreadable")
    assert server.requests == 1 or "redirects more than" in error.message


def test_a_redirect_without_an_address_is_named(server):
    error = outcome(server, b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(error, ItemError)
    assert (error.code, "without saying where" in error.message) == ("unreadable", True)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Type: \xff\xfe; charset=no-such\r\n" + LENGTH,
        b'Content-Type: text/html; charset="' + b"x" * 500 + b"\r\n" + LENGTH,
        b"Content-Type:\r\n" + LENGTH,
        b"Content-Disposition: attachment; filename*=UTF-8''%ff\r\n" + LENGTH,
        b"Content-Length: \xb2\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: many\r\n",
        b"Content-Length: 0x11\r\n",
        b"Content-Length: 0000000000000000000000017\r\n",
        LENGTH + LENGTH,
        b"Set-Cookie: a=\xe4\r\nDate: never\r\nLast-Modified: 0\r\n" + LENGTH,
        b"Content-Encoding:\r\n" + LENGTH,
        b"Content-Encoding: identity, identity\r\n" + LENGTH,
        b"no colon in this line\r\n" + LENGTH,
    ],
)
def test_headers_that_do_not_matter_cost_nothing(server, headers):
    assert outcome(server, OK + headers + b"\r\n" + BODY) == BODY


S3_ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>very-secret</Message></Error>"


def s3_error(status: bytes, code: bytes) -> bytes:
    body = S3_ERROR % code
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY, {"unreadable", "too_large"}),
        (OK + b"Content-Length: many\r\n\r\n" + BODY, {"unreadable"}),
        (OK + b"Content-Length: 99\r\n\r\n" + BODY, {"fetch_failed"}),
        (OK + b"Last-Modified: never\r\n" + LENGTH + b"\r\n" + BODY, {"unreadable"}),
        (OK + b"x-amz-missing-meta: many\r\n" + LENGTH + b"\r\n" + BODY, {"unreadable"}),
        (OK + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n" + BODY, {"fetch_failed"}),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n" + BODY, {"fetch_failed"}),
        (b"HTTP/1.1 xyz OK\r\n\r\n", {"fetch_failed"}),
        (b"", {"fetch_failed"}),
        (b"\0" * 100, {"fetch_failed"}),
        (s3_error(b"404 Not Found", b"NoSuchKey"), {"not_found"}),
        (s3_error(b"403 Forbidden", b"AccessDenied"), {"unreadable"}),
        (s3_error(b"403 Forbidden", b"\xff\xfe"), {"unreadable", "fetch_failed"}),
        (s3_error(b"301 Moved", b"PermanentRedirect"), {"unreadable", "fetch_failed"}),
        (redirect(b"http://["), {"unreadable", "fetch_failed"}),
        (redirect(b"http://169.254.169.254/"), {"unreadable", "fetch_failed"}),
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\n<html",
            {"unreadable", "fetch_failed"},
        ),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", {"fetch_failed"}),
    ],
)
def test_nonsense_of_an_s3_has_an_outcome(s3, server, monkeypatch, answer, codes):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{server.host}")
    error = outcome(server, answer, "s3://pairs/a.jpg")
    assert isinstance(error, ItemError), error
    assert error.code in codes, error


def test_mutated_answers_give_bytes_or_an_item_error(server):
    rng = random.Random(5)
    seeds = [
        OK + LENGTH + b"Content-Type: image/jpeg\r\n\r\n" + BODY,
        OK + b"Transfer-Encoding: chunked\r\n\r\n11\r\n" + BODY + b"\r\n0\r\n\r\n",
        OK + b"Content-Encoding: gzip\r\n" + LENGTH + b"\r\n" + BODY,
        redirect(b"http://elsewhere.test:80/b?c=d"),
    ]
    pieces = (b"\r\n", b"\0", b"\xff", b":", b"9" * 40, b" ", b"[", b"%", b"chunked", b"-1", b"\n")
    codes: dict[str, int] = {}
    for number in range(400):
        answer = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(answer))
            cut = rng.choice((0, 0, 1, 5))
            answer[at : at + cut] = rng.choice(pieces)
        result = outcome(server, bytes(answer))
        code = result.code if isinstance(result, ItemError) else "read"
        codes[code] = codes.get(code, 0) + 1
    assert {"read", "fetch_failed", "unreadable"} <= codes.keys()


def test_what_no_library_should_raise_is_an_outcome_too(server, monkeypatch):
    def broken(*_: object) -> bytes:
        raise RuntimeError("very-secret")

    fetcher = Fetcher(allowed_hosts=(server.host,))
    monkeypatch.setattr(fetcher._http, "read", broken)
    with pytest.raises(ItemError) as caught:
        fetcher.fetch(f"http://{server.host}/a.jpg?very-secret")
    assert caught.value.code == "unreadable"
    assert "RuntimeError" in caught.value.message
    assert "secret" not in str(caught.value)
