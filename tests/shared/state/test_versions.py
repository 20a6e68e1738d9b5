"""Versions side by side: an older process leaves the records of a newer one as they are, and says
so; a newer one reads those of an older one (`test_old_records.py`)."""

from __future__ import annotations

import json

import pytest

from rerankfleet.shared.content.outcomes import SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import UnreadableJob
from rerankfleet.shared.formats.shard_files import (
    dump_part,
    dump_slices,
    load_slices,
    parse_part,
    shard_uri,
)
from tests.support.fleet import PROVENANCE
from tests.support.records import ALL, claim

pytestmark = pytest.mark.usefixtures("calm")


def record(store, shard: str = "0-10") -> dict[str, object]:
    return json.loads(store.client.hget(store.keys.job_open("a"), shard))


def test_what_a_newer_version_writes_into_a_shards_record_stays(store, make):
    # given a shard's record with a field of a later version
    make("a", (0, 10))
    newer = {**record(store), "colour": "blue"}
    store.client.hset(store.keys.job_open("a"), "0-10", json.dumps(newer))
    # when this one claims, releases, pauses and resumes
    store.shards.release(claim(store))
    store.jobs.pause(store.jobs.get("a"), "why")
    store.jobs.resume(store.jobs.get("a"))
    lease = claim(store, token="second")
    # then it is still there, and the shard can be committed
    assert record(store)["colour"] == "blue"
    assert store.shards.commit(lease, "p", ALL)[0] == "committed"


def test_what_a_newer_version_writes_into_a_jobs_record_stays(store, make):
    make("a", (0, 10), (10, 20))
    store.client.hset(store.keys.job("a"), "colour", "blue")

    store.shards.commit(claim(store), "p", ALL)
    store.jobs.pause(store.jobs.get("a"), "why")
    store.jobs.resume(store.jobs.get("a"))
    store.jobs.cancel(store.jobs.get("a"))

    assert store.jobs.get("a").facts["colour"] == "blue"


def test_a_part_of_a_newer_version_is_read():
    head, line = dump_part([SliceOutcome(line=1)], PROVENANCE).splitlines()
    newer = b"\n".join(
        json.dumps({**json.loads(x), "colour": "blue"}).encode() for x in (head, line)
    )

    outcomes, provenance = parse_part(newer)

    assert (outcomes, provenance) == ([SliceOutcome(line=1)], PROVENANCE)


def test_a_shard_file_of_a_newer_version_is_refused_as_such(objects):
    piece = Slice(line=1, query="q", documents=[{"text": "d"}], indices=[0])
    newer = {**json.loads(dump_slices([piece])), "colour": "blue"}
    objects.write(shard_uri(objects, "a", "0-0-1-x"), json.dumps(newer).encode())

    with pytest.raises(UnreadableJob, match="written by a newer version: 'colour'"):
        load_slices(objects, "a", "0-0-1-x", "0-1")
