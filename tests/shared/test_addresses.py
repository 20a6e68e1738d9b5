"""What addresses name, how people write them, and what of them is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.addresses import (
    canonical,
    file_uri,
    local_path,
    path_address,
    printable,
    safe_uri,
    scheme_of,
    without_secrets,
)
from rerankfleet.shared.errors import UsageError

# ---- paths --------------------------------------------------------------------------------------

ODD_NAMES = [
    *("a#1.jpg", "a?b.jpg", "a%41.jpg", "100%.jpg", "%.jpg", "a;b.jpg", "a:b.jpg", "a&b=c.jpg"),
    *("a\tb.jpg", "a\nb.jpg", "a\rb.jpg", "a\x7fb.jpg", "a\x85b.jpg", "a\u2028b.jpg"),
    *(" a.jpg", "a.jpg ", "a  b.jpg", "a\u3000", "a\\b.jpg", "~a.jpg", "file:a.jpg", "data:a.jpg"),
    *("ü.jpg", "u\u0308.jpg", "图片.jpg", "👩\u200d👩.jpg", "\udcff.jpg", "\udce4\udcf6.jpg"),
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_address_leads_back_to_its_path(tmp_path, name):
    for path in (tmp_path / name, tmp_path / name / "b.jpg"):
        address = file_uri(path)
        assert local_path(address) == path
        assert canonical(address) == canonical(f" {address}\n") == address
        address.encode()  # it is text
        assert address == "".join(address.split("\n")).strip()
    assert os.fspath(local_path(path_address(name))) == name
    assert scheme_of(path_address(name)) == "file"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_leads_back_to_itself(name):
    for path in (name, f"/a/{name}"):
        assert os.fspath(local_path(path_address(path))) == os.fspath(Path(path))
        assert canonical(path_address(path)) == path_address(path)


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_any_bytes_lead_back_to_themselves(name):
    path = os.fsdecode(b"/a/" + name)
    address = path_address(path)
    assert os.fspath(local_path(address)) == os.fspath(Path(path))
    address.encode()


@pytest.mark.parametrize(
    "path", ["/a/b.jpg", "/a b/c.jpg", "/ä/ö;ü:1.jpg", "/图片/1.jpg", "/a&b=c"]
)
def test_an_ordinary_path_reads_as_it_is(path):
    assert path_address(path) == f"file://{path}"


def test_no_two_paths_have_one_address():
    names = [*ODD_NAMES, "a%231.jpg", "a%3Fb.jpg", "aA.jpg", "%FF.jpg", "a%0Ab.jpg"]
    assert len({path_address(f"/{name}") for name in names}) == len(names)


# ---- what people write --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("HTTP://Example.COM/A b.jpg", "http://example.com/A%20b.jpg"),
        (" https://host/a\t\r\n", "https://host/a"),
        ("https://host/%41%2f%zz%?q=a+b&c=%20", "https://host/%41%2f%zz%?q=a+b&c=%20"),
        ("https://host/图?q=ü ö#é", "https://host/%E5%9B%BE?q=%C3%BC%20%C3%B6#%C3%A9"),
        ("https://MÜNCHEN.de:8443/", "https://xn--mnchen-3ya.de:8443/"),
        ("https://例え。jp", "https://xn--r8jz45g.jp"),
        ("https://host:/a", "https://host/a"),
        ("https://[2001:DB8::1]:80/a", "https://[2001:db8::1]:80/a"),
        ("https://us er:pä@host/@", "https://us%20er:p%C3%A4@host/@"),
        ("S3://Bucket/Key", "s3://Bucket/Key"),
        ("s3://b//a/../b?c#d%41 ", "s3://b//a/../b?c#d%41 "),
        ("FILE:///A%20b?c#d", "file:///A%20b?c#d"),
        ("file:/a", "file:///a"),
        ("file://LOCALHOST/a", "file:///a"),
        ("file:////server/a", "file:////server/a"),
        ("a b/c.jpg ", "a b/c.jpg "),
        ("a/b://c.jpg", "a/b://c.jpg"),
        ("ftp://host/a", "ftp://host/a"),
    ],
)
def test_addresses_are_read_as_kindly_as_a_browser_reads_them(written, meant):
    assert canonical(written) == meant
    assert canonical(meant) == meant


@pytest.mark.parametrize(
    "written",
    [
        *("http://", "https:///a", "https://?a", "https://:80/", "https://user@/a"),
        *("https://a b/", "https://a<b/", "https://a%41/", "https://a:b/", "https://a:65536/"),
        *("https://[::1/", "https://a]/", "https://allowed.com\\@evil.com/", "https://a..ü/"),
        *("https://faß.de/", "https://a/\nb", "https://a/\x7f", "https://a/\ud800"),
        *("file://host/a", "file://relative", "s3://user:pw@bucket/a"),
    ],
)
def test_what_is_no_address_is_refused_in_a_sentence_that_does_not_repeat_it(written):
    with pytest.raises(UsageError) as caught:
        canonical(written)
    assert caught.value.hint
    assert "address" in caught.value.message
    assert written not in str(caught.value)


# ---- what is shown ------------------------------------------------------------------------------

AWS = "X-Amz-Algorithm=A&X-Amz-Credential=SECRET&X-Amz-Signature=SECRET&X-Amz-Security-Token=SECRET"
CLOUDFRONT = "Expires=1&Signature=SECRET&Key-Pair-Id=SECRET"
POLICY = "Policy=SECRET&Signature=SECRET&Key-Pair-Id=SECRET"
GOOGLE = "X-Goog-Algorithm=A&X-Goog-Credential=SECRET&X-Goog-Signature=SECRET"
OLD_AWS = "AWSAccessKeyId=SECRET&Expires=1&Signature=SECRET"
OLD_GOOGLE = "GoogleAccessId=SECRET&Expires=1&Signature=SECRET"
AZURE = "sv=2024-11-04&ss=b&srt=o&sp=r&st=a&se=b&spr=https&sip=1&sr=b&sig=SECRET"
TOKEN = "token=SECRET&access_token=SECRET"


@pytest.mark.parametrize(
    "signing",
    [
        AWS,
        CLOUDFRONT,
        POLICY,
        GOOGLE,
        OLD_AWS,
        OLD_GOOGLE,
        AZURE,
        TOKEN,
        AWS.lower(),
        AZURE.upper(),
    ],
)
def test_what_signs_an_address_is_not_shown_and_the_rest_is(signing):
    for query in (f"id=7&{signing}&v=ü", f"{signing}&id=7&v=ü", f"id=7&v=ü&{signing}"):
        assert without_secrets(f"https://h/a.jpg?{query}") == "https://h/a.jpg?id=7&v=ü"
    escaped = f"https://h/a.jpg?id=7&amp;{signing.replace('&', '&amp;')}"
    assert without_secrets(escaped) == "https://h/a.jpg?id=7"
    assert without_secrets(f"https://h/a.jpg?{signing}") == "https://h/a.jpg"
    assert without_secrets(f"https://h/a.jpg#{signing}") == "https://h/a.jpg"


@pytest.mark.parametrize(
    "address",
    [
        *(
            "https://h/img?id=0",
            "https://h/img?id=0#1",
            "https://h/img?a&b=&c==d&a",
            "http://h/a@b",
        ),
        *("https://h/map?se=1&sp=2&sr=3&st=4&policy=5&si=6", "https://h/?key=a&s=b&keyid=c"),
        *("s3://b/k?X-Amz-Signature=part-of-the-key#%41", "file:///a?token=part#of", "a?sig=1"),
        *("/a@b:c/d.jpg", "HTTP://Host/ä b.jpg", "https://[::1]:80/a@b"),
    ],
)
def test_an_address_that_nobody_signed_is_shown_whole(address):
    assert without_secrets(address) == address


@pytest.mark.parametrize(
    "address",
    [
        *("https://user:SECRET@host/a@b.jpg", "HTTP://SECRET@host/a@b.jpg"),
        *("https://user:SEC:RET@SECRET@host/a@b.jpg", "s3://key:SECRET@host/a@b.jpg"),
        *("ftp://user:SECRET@host/a@b.jpg", " https://user:SECRET@host/a@b.jpg"),
        *("https:/user:SECRET@host/a@b.jpg", "https:user:SECRET@host/a@b.jpg"),
    ],
)
def test_a_password_is_never_shown(address):
    for shown in (without_secrets(address), safe_uri(address)):
        assert "SECRET" not in shown
        assert shown.endswith("host/a@b.jpg")


@pytest.mark.parametrize("password", ["SE/CRET", "SE#CRET", "SE?CRET"])
def test_a_password_that_breaks_its_address_is_not_shown_either(password):
    for shown in (without_secrets, safe_uri):
        assert "CRET" not in shown(f"https://user:{password}@host/a")
        assert "SE" not in shown(f"https://user:{password}@host/a")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b/ü.jpg", "a b/ü.jpg"),
        ("a?#%41.jpg", "a?#%41.jpg"),
        ("a\n%.jpg", "file:a%0A%25.jpg"),
        ("/a\udcff.jpg", "file:///a%FF.jpg"),
        ("file:///a\udcff?.jpg", "file:///a%FF?.jpg"),
        ("s3://b/a\nb", "s3://b/a%0Ab"),
    ],
)
def test_a_name_is_shown_in_characters_that_can_be_printed(name, shown):
    assert printable(name) == safe_uri(name) == shown
    if scheme_of(name) == "" != scheme_of(shown):
        assert local_path(shown) == Path(name)
