"""How rows name images, whatever their names and addresses are; and what a folder passes over."""

from __future__ import annotations

import json
import os

import pytest

from rerankfleet.producer.inputs import folders
from rerankfleet.producer.inputs.folders import IMAGE_SUFFIXES
from rerankfleet.producer.inputs.tables import row_line
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.lines import image_of
from tests.support.catalogs import QUERIES, all_expected, do, expected, manifest

SIGNED = "X-Amz-Credential=SECRET&X-Amz-Signature=SECRET"
ODD_NAMES = ["a#1.jpg", "a?b.jpg", "a%41.jpg", "a\tb.jpg", "a\nb.jpg", " ;:ü 图.jpg", "a.jpg "]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_no_two_images_have_the_same_rows(api, control, listing, format):
    """Given addresses that differ only in their query, their signature, their login or not at all,
    and ids that stand twice."""
    images = [
        *("https://h/img?id=0", "https://h/img?id=1", "https://h/img#1"),
        *(f"https://h/img?id=2&{SIGNED}1", f"https://h/img?{SIGNED}2&id=2"),
        *("https://a:SECRET@h/img", "https://b:SECRET@h/img", "HTTPS://h/img", "https://h/img"),
        *({"id": "x", "image": "s3://pairs/a.jpg"}, {"id": "x", "image": "s3://pairs/a.jpg"}),
        *("s3://pairs/a.jpg", "s3://pairs/a.jpg", "s3://pairs/a.jpg?b", "s3://pairs/a.jpg#b"),
    ]
    job_id = api.submit_catalog(listing(*images), QUERIES, format=format, top_n=100)

    do(control, job_id)

    results = list(api.results(job_id))
    assert len({(row["query_id"], row["line"]) for row in results}) == len(images) * len(QUERIES)
    assert [row["image_id"] for row in results][::3] == [
        *("https://h/img?id=0", "https://h/img?id=1", "https://h/img#1"),
        *("https://h/img?id=2", "https://h/img?id=2"),
        *("https://h/img", "https://h/img", "HTTPS://h/img", "https://h/img"),
        *("x", "x", "s3://pairs/a.jpg", "s3://pairs/a.jpg"),
        *("s3://pairs/a.jpg?b", "s3://pairs/a.jpg#b"),
    ]
    output = control.store.jobs.get(job_id).facts["output"]
    ranking = control.objects.read(f"{output}ranking.jsonl").decode()
    assert "SECRET" not in json.dumps(results) + ranking
    for line in ranking.splitlines():
        places = [result["line"] for result in json.loads(line)["results"]]
        assert sorted(places) == list(range(1, len(images) + 1))


def test_a_folder_of_odd_names_has_a_row_for_each(api, control, tmp_path):
    root = tmp_path / "allowed" / "50% #1?"
    root.mkdir(parents=True)
    for name in [*ODD_NAMES, "\udcff.jpg"]:
        (root / name).write_bytes(b"x")

    job_id = api.submit_catalog(root, QUERIES)
    do(control, job_id)

    images = [file_uri(root / name) for name in sorted([*ODD_NAMES, "\udcff.jpg"])]
    assert list(api.results(job_id)) == all_expected(images)
    assert images[-1].endswith("/%FF.jpg")
    assert api.status(job_id).passed_over == ""


def test_a_listing_names_images_in_any_bytes(api, control, listing):
    lines = [
        *(b"/a/\xe4\xff#?%41.jpg", b"/a/\xc3\xa4.jpg", b" https://h/\xe4 \r", b"s3://pairs/\xff"),
        *({"image": "/a/\udce4"}, {"image": "/a/b "}, {"image": ["s3://pairs/ "], "id": 1}),
    ]
    job_id = api.submit_catalog(listing(*lines), QUERIES)

    do(control, job_id)

    results = list(api.results(job_id))
    assert results[:9] == all_expected(
        ["file:///a/%E4%FF%23%3F%2541.jpg", "/a/ä.jpg", "https://h/%E4"]
    )
    assert results[9]["image_id"] == "s3://pairs/%FF"
    assert results[9]["error"]["code"] == "invalid_image"
    assert results[10:] == [
        *expected("file:///a/%E4", line=5),
        *expected("/a/b ", line=6),
        *expected("s3://pairs/ ", line=7, image_id=1),
    ]


def test_a_row_of_an_image_that_is_wrong_has_the_id_and_the_address_that_its_line_has(
    api, control, listing
):
    lines = [
        {"id": 7, "image": "ftp://h/a.jpg"},
        {"image": ["ftp://user:SECRET@h/a.jpg?token=SECRET&id=1", "b"]},
        {"image": f"https://user:SE/CRET@h/?{SIGNED}"},
        {"image": "https:///a.jpg", "metadata": {}},
        {"image": "s3://pairs/a.jpg", "metadata": {}},
        {"image": "a\x00b\ud800"},
        {"image": "https://h/" + "x" * 10_000},
        {"id": "8", "image": 5},
        {"image": [5]},
        {"id": {}, "image": "ftp://h/b.jpg"},
        "https://h/good.jpg",
    ]
    job_id = api.submit_catalog(listing(*lines), QUERIES)

    do(control, job_id)

    failed = [row for row in api.results(job_id) if "error" in row]
    assert [row["image_id"] for row in failed] == [
        *(7, "ftp://h/a.jpg?id=1", "https://h/", "https:///a.jpg", "s3://pairs/a.jpg"),
        *("file:a%00b?", "https://h/" + "x" * 190 + "…", "8", None, "ftp://h/b.jpg"),
    ]
    assert [row["line"] for row in failed] == list(range(1, 11))
    assert "SECRET" not in json.dumps(failed)
    assert "CRET" not in json.dumps(failed)


# ---- what is passed over -------------------------------------------------------------------------

OTHERS = {
    **dict.fromkeys((f"{n}.psd" for n in range(5)), 1),
    **dict.fromkeys(("README", "notes.", "archive.tar.gz", "b/Thumbs.db", "a.jpg.part"), 1),
}
PASSED_OVER = "10 passed over: 5 .psd, 2 without suffix, 1 .db, 1 .gz, 1 .part"
HIDDEN = [".DS_Store", "._a.jpg", "b/._a.jpg", ".hidden/a.jpg", ".gitignore"]


@pytest.fixture(params=["folder", "prefix"])
def place(request, tmp_path, s3):
    """Where files of some names lie: a folder, or a prefix with markers of its folders."""

    def fill(names):
        if request.param == "prefix":
            for name in [*names, "", "b/"]:
                s3.put_object(Bucket="pairs", Key=f"all/{name}", Body=b"x")
            return "s3://pairs/all/"
        root = tmp_path / "allowed" / "all"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"x")
        return file_uri(root) + "/"

    return fill


def test_what_a_folder_passes_over_is_said_when_its_job_is_made(api, control, place):
    images = sorted(f"{n}{suffix}" for n, suffix in enumerate(IMAGE_SUFFIXES))
    images += ["b/UPPER.JPG", "x.JpEg "]
    uri = place([*images, *OTHERS, *HIDDEN])

    job_id = api.submit_catalog(uri, QUERIES)

    assert api.status(job_id).passed_over == PASSED_OVER
    do(control, job_id)
    taken = [row["image_id"].removeprefix(uri) for row in api.results(job_id)][::3]
    assert sorted(name.replace("%20", " ") for name in taken) == sorted(images)
    assert manifest(control, job_id).input.passed_over == PASSED_OVER


@pytest.mark.parametrize(
    "written",
    [
        "FILE://{0}/a%20b%20/",
        "file://{0}/a%20b%20",
        "file://localhost{0}/link",
        "file:{0}/link/",
        "{0}/link",
        "{0}/a b ",
    ],
)
def test_a_folder_may_be_written_in_any_way(api, control, tmp_path, written):
    root = tmp_path / "allowed" / "a b "
    root.mkdir(parents=True)
    (tmp_path / "allowed" / "link").symlink_to(root)
    for name in ("a.jpg", "b.psd"):
        (root / name).write_bytes(b"x")

    job_id = api.submit_catalog(written.format(tmp_path / "allowed"), QUERIES)

    assert api.status(job_id).passed_over == "1 passed over: 1 .psd"
    do(control, job_id)
    assert list(api.results(job_id)) == all_expected([file_uri(root / "a.jpg")])


def test_a_folder_without_images_is_refused_with_what_it_has(api, place):
    with pytest.raises(UsageError, match=r"no image under .* \(1 passed over: 1 \.psd\)"):
        api.submit_catalog(place(["a.psd", "._a.jpg"]), QUERIES)
    with pytest.raises(UsageError, match=r"names of images end with .*\.avif"):
        api.submit_catalog(place([".hidden.jpg"]), QUERIES)


def test_of_a_large_folder_the_first_names_are_counted(api, control, place, monkeypatch):
    monkeypatch.setattr(folders, "NAMES_COUNTED", 3)
    uri = place(["1.psd", "2", "3.psd", "4.psd", "5.psd", "6.jpg"])
    first = 2 if uri.startswith("s3:") else 3  # the marker of the prefix itself is a name

    job_id = api.submit_catalog(uri, QUERIES)

    said = api.status(job_id).passed_over
    assert said.startswith(f"{first} passed over among the first 3 names: ")
    do(control, job_id)
    assert len(list(api.results(job_id))) == 3


def test_links_that_lead_nowhere_or_to_themselves_are_errors_of_their_own(api, control, tmp_path):
    root = tmp_path / "allowed" / "all"
    (root / "b").mkdir(parents=True)
    (root / "a.jpg").write_bytes(b"x")
    for name, to in {
        "gone.jpg": "nowhere.jpg",
        "loop.jpg": "loop.jpg",
        "b/up": "..",
        "good.jpg": "a.jpg",
        "up.jpg": "..",
    }.items():
        os.symlink(to, root / name)

    job_id = api.submit_catalog(root, QUERIES)
    do(control, job_id)

    names = [row["image_id"].rpartition("/")[2] for row in api.results(job_id)][::3]
    assert names == ["a.jpg", "gone.jpg", "good.jpg", "loop.jpg"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], ""),
        (["a.jpg", "", "b/", ".x", "b/.x"], ""),
        (["a.heic", "b.AVIF", "c.jfif", "d.mpo", "e.jpe"], ""),
        (["a"], "1 passed over: 1 without suffix"),
        (["a.b c", "a.", "a.toolongasuffix", "a.ü"], "4 passed over: 4 without suffix"),
        (["a.PSD", "b.psd ", "c.txt"], "3 passed over: 2 .psd, 1 .txt"),
        ([f"{n}.t{n % 8}" for n in range(9)],
         "9 passed over: 2 .t0, 1 .t1, 1 .t2, 1 .t3, 1 .t4, 3 others"),
    ],
)  # fmt: skip
def test_what_is_passed_over_is_one_line(names, said):
    assert folders.said(folders.passed_over(names)) == said
    assert folders.said(["" for _ in range(1234)], of_first=2000) == (
        "1,234 passed over among the first 2,000 names: 1,234 without suffix"
    )


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"id": 7, "image": 5.0}, 7),
        ({"image": "https://u:SECRET@h/a?id=1", "text": 1.5}, "https://h/a?id=1"),
        ({"id": "x", "image": [object()]}, "x"),
        ({"id": {}, "image": "s3://b/k"}, "s3://b/k"),
        ({"id": 2, "image": "s3://b/" + "k" * 600_000}, 2),
    ],
)
def test_a_row_of_a_table_that_is_wrong_has_what_names_it(row, named):
    piece = image_of(1, row_line(row, 500_000), 1)

    assert len(piece.failures) == 1
    assert (piece.metadata or {}).get("image_id") == named


@pytest.mark.parametrize(
    ("line", "named", "says"),
    [
        (b'{"image": "a.png", "text": "caf\xe9", "id": "a"}', "a", "not UTF-8 at byte"),
        (b'{"image": "a.png", "text": "caf\xe9"}', "a.png", "not UTF-8 at byte"),
        (b'{"image": "a.png", "text": NaN}', "a.png", "NaN is not a JSON value"),
        (b'{"image": "a.png", "text": "x", "text": "y"}', "a.png", "stands twice"),
        (b'{"image": "a.png", "image": "b.png"}', None, "stands twice"),
        (b'{"Image": "a.png", "id": 9}', 9, "there is no image, but 'Image'"),
        (b'{"id": 9}', 9, "there is no image"),
    ],
)
def test_a_line_of_a_listing_that_is_wrong_has_what_names_it(line, named, says):
    piece = image_of(1, line, 1)

    (failure,) = piece.failures
    assert (piece.metadata or {}).get("image_id") == named
    assert says in failure.message
