"""Images inside a request, as people write them, at each door: all become the same bytes."""

from __future__ import annotations

import base64
import csv
import io
import json
import re

import pytest

from rerankfleet.producer.gateway.formats.contents import content_of
from rerankfleet.producer.inputs.tables import csv_lines
from rerankfleet.shared.content.data_uris import WrongData, as_data_uri, carries_file, data_of
from rerankfleet.shared.content.requests import ImageRun
from rerankfleet.shared.formats.lines import image_of, parse_line

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) + b"\xfb\xff\xbf"
PLAIN = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(PNG).decode()
MIME = base64.encodebytes(PNG).decode()
ESCAPED = "".join(f"%{byte:02x}" for byte in PNG)
MANY = 1 << 20

WRITTEN = {
    "usual": f"data:image/png;base64,{PLAIN}",
    "line breaks": f"data:image/png;base64,{MIME}",
    "windows line breaks": f"data:image/png;base64,{MIME}".replace("\n", "\r\n"),
    "blanks": f" data:image/png;base64, {PLAIN[:40]} {PLAIN[40:]}\t",
    "no padding": f"data:image/png;base64,{PLAIN.rstrip('=')}",
    "groups": "data:image/png;base64," + " ".join(re.findall(".{1,8}", PLAIN)),
    "indented lines": "data:image/png;base64," + "\n    ".join(re.findall(".{1,60}", PLAIN)),
    "url-safe": f"data:image/png;base64,{URL_SAFE}",
    "url-safe, no padding": f"data:image/png;base64,{URL_SAFE.rstrip('=')}",
    "percent-encoded base64": f"data:image/png;base64,{PLAIN}".replace("+", "%2B")
    .replace("/", "%2F")
    .replace("=", "%3D"),
    "parameters": f"data:image/png;charset=utf-8;name=a.png;base64,{PLAIN}",
    "a quoted parameter": f'data:image/png;name="a,b.png";base64,{PLAIN}',
    "blanks in the type": f"data: image/png ; base64 ,{PLAIN}",
    "no type": f"data:;base64,{PLAIN}",
    "no type and no semicolon": f"data:base64,{PLAIN}",
    "a wrong type": f"data:text/plain;base64,{PLAIN}",
    "an unknown type": f"data:application/octet-stream;BASE64,{PLAIN}",
    "upper case": f"DATA:IMAGE/PNG;BASE64,{PLAIN}",
    "percent-encoded": f"data:image/png,{ESCAPED}",
    "percent-encoded, with a charset": f"data:image/png;charset=latin-1,{ESCAPED}",
    "base64 alone": PLAIN,
    "base64 alone, in lines": f"\n{MIME}",
    "base64 alone, url-safe": URL_SAFE,
}


def jsonl(image: str) -> str:
    piece = parse_line(1, json.dumps({"query": "q", "documents": [{"image": image}]}).encode(),
                       max_documents=9)  # fmt: skip
    assert not piece.failures, piece.failures
    return piece.documents[0].image[0]


def query(image: str) -> str:
    line = json.dumps({"query": {"image": [image]}, "documents": ["a"]}).encode()
    return parse_line(1, line, max_documents=9).query.image[0]


def frame(image: str) -> str:
    line = json.dumps({"query": {"frames": [image]}, "documents": ["a"]}).encode()
    return parse_line(1, line, max_documents=9).query.video.frames[0]


def catalog(image: str) -> str:
    run = image_of(1, json.dumps({"id": 1, "image": image}).encode(), 1)
    assert isinstance(run, ImageRun)
    return run.document.image[0]


def csv_catalog(image: str) -> str:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("id", "image"), (1, image)])
    lines = csv_lines(io.BytesIO(table.getvalue().encode()), "a.csv", MANY)
    [line] = filter(bytes.strip, lines)  # others are blank, for the rows' numbers
    run = image_of(1, line, 1)
    assert isinstance(run, ImageRun), run
    return run.document.image[0]


def native_http(image: str) -> str:
    return jsonl(content_of({"image": image}, ("query",))["image"])


def vllm_http(image: str) -> str:
    part = {"type": "image_url", "image_url": {"url": image}}
    return jsonl(content_of({"content": [part]}, ("query",))["image"][0])


@pytest.mark.parametrize(
    "door", [jsonl, query, frame, catalog, csv_catalog, native_http, vllm_http],
    ids=lambda door: door.__name__,
)  # fmt: skip
@pytest.mark.parametrize("way", WRITTEN)
def test_base64_is_read_as_people_write_it_at_each_door(door, way):
    image = WRITTEN[way]
    uri = door(image)
    assert uri.startswith("data:")  # what else reads it may rely on that
    assert data_of(uri, MANY) == PNG
    assert carries_file(image)


@pytest.mark.parametrize(
    "head",
    [
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"\x89PNG\r\n\x1a\n",
        b"GIF87a",
        b"GIF89a",
        b"RIFF\x24\7\0\0WEBPVP8 ",
        b"BM\x46\x38\1\0\0\0\0\0\x36\0\0\0",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"II+\0\x08\0\0\0",
        b"\0\0\0\x20ftypavif\0\0\0\0",
        b"\0\0\0\x18ftypheic\0\0\0\0",
        b"\0\0\0\x2cftypmif1\0\0\0\0",
    ],
)
def test_base64_of_every_kind_of_image_is_recognised_alone(head):
    data = head + PNG
    for alone in (base64.b64encode(data), base64.urlsafe_b64encode(data).rstrip(b"=")):
        uri = as_data_uri(alone.decode())
        assert uri is not None
        assert data_of(uri, MANY) == data


@pytest.mark.parametrize(
    "image",
    [
        "s3://shop/iVBORw0KGg.png",
        "/9j/photos/chair.jpg",
        "iVBORw0KGg.png",
        "R0lGOD.gif",
        "database/a.png",
        "data/a.png",
        "folder/data:image.png",
    ],
)
def test_an_address_stays_an_address(image):
    assert as_data_uri(image) is None
    assert not carries_file(image)
    assert jsonl(image) == image


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        (f"data:image/png;base64,{PLAIN[:9]}!{PLAIN[9:]}", "'!' at character 10"),
        (f"data:image/png;base64,{PLAIN[:9]}=={PLAIN[9:]}==", "'=' at character 10"),
        (f"data:image/png;base64,\n{PLAIN[:9]}\\n", "'\\\\' at character 11"),
        (f"data:image/png;base64,{PLAIN[:9]}…", "'…' at character 10"),
        ("data:image/png;base64,iVBOR", "has 5 characters: some of them are missing"),
        ("data:image/png;base64,iVBORw=", "has 7 characters: some of them are missing"),
        (f"data:image/png;base64,{PLAIN.replace('+', ' ')}", "some of them are missing"),
        (f"data:image/png;base64,{(PLAIN * 4).replace('+', ' ')}", "blanks where each `+` was"),
        ("data:image/png;base64,====", None),
        (f"data:;base64,{PLAIN * 20}%", "'%' at character 7,121"),
    ],
)
def test_wrong_base64_says_what_is_wrong_and_where(uri, why):
    if why is None:
        assert data_of(uri, MANY) == b""  # an empty file, as which it is reported
        return
    with pytest.raises(WrongData) as caught:
        data_of(uri, MANY)
    assert why in str(caught.value)


def test_wrong_base64_alone_is_not_taken_for_a_path():
    uri = as_data_uri(PLAIN * 20 + "!")
    assert uri is not None
    with pytest.raises(WrongData, match="'!' at character 7,121"):
        data_of(uri, MANY)


@pytest.mark.parametrize("way", WRITTEN)
def test_more_bytes_than_allowed_are_refused_however_they_are_written(way):
    uri = as_data_uri(WRITTEN[way])
    assert uri is not None
    assert data_of(uri, len(PNG)) == PNG
    assert data_of(uri, len(PNG) - 1) is None
