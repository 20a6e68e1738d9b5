"""Whose an upload is: known from its name alone."""

from __future__ import annotations

import pytest

from rerankfleet.shared.ids import is_id
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.uploads import OwnUploads, new_upload, uploads_uri


@pytest.fixture(params=["file", "s3"])
def uploads(request, tmp_path):
    """A folder of uploads, and what tells whose they are."""
    storage = str(tmp_path / "a b") if request.param == "file" else "s3://bucket/some/prefix"
    settings = Settings(storage=storage)
    return uploads_uri(settings), OwnUploads(settings)


def test_an_upload_is_its_owners(uploads):
    base, own = uploads
    mine, yours, nobodys = (new_upload(9, owner)[0] for owner in ("mine", "yours", ""))
    assert all(map(is_id, (mine, yours, nobodys)))
    assert own.is_own(f"{base}{mine}/upload.png", "mine")
    for upload_id in (yours, nobodys, "x"):
        assert not own.is_own(f"{base}{upload_id}/upload.png", "mine")
        assert own.is_foreign(f"{base}{upload_id}/upload.png", "mine")
    assert not own.is_foreign(f"{base}{mine}/upload.png", "mine")
    assert own.is_foreign(base, "mine")


def test_no_way_round_leads_to_anothers_upload(uploads):
    base, own = uploads
    mine, yours = (new_upload(9, owner)[0] for owner in ("mine", "yours"))
    scheme, _, rest = base.partition("://")
    ways = [
        f"{base}{mine}/../{yours}/upload.png",
        f"{base}./{yours}/upload.png",
        f"{base}/{yours}/upload.png",
        f"{base}../uploads/{yours}/upload.png",
        f"{scheme.upper()}://{rest}{yours}/upload.png",
    ]
    if scheme == "file":
        ways += [f"file:{rest}{yours}/x", f"file://localhost{rest}{yours}/x"]
        ways += [f"{base.replace('uploads', '%75ploads')}{yours}/x", f"{rest}{yours}/x"]
    for way in ways:
        assert own.is_foreign(way, "mine"), way
        assert not own.is_own(way, "mine"), way


def test_a_link_does_not_hide_whose_it_is(tmp_path):
    settings = Settings(storage=str(tmp_path))
    yours, _ = new_upload(9, "yours")
    (tmp_path / "uploads" / yours).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "uploads" / yours)
    assert OwnUploads(settings).is_foreign(f"file://{tmp_path}/link/upload.png", "mine")


@pytest.mark.parametrize(
    "address",
    ["", "x.png", "data:image/png;base64,AA", "https://host/uploads/x", "s3://other/uploads/x",
     "file:///\0", "file://host/x", "s3://user:pw@bucket/x", "\udc80", "/" + "a" * 5000],
)  # fmt: skip
def test_other_addresses_are_nobodys_uploads(uploads, address):
    _, own = uploads
    assert not own.is_foreign(address, "mine")
    assert not own.is_own(address, "mine")
