"""Jobs made: the model chosen, what is refused before any work starts, keys."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from rerankfleet.producer import quotas
from rerankfleet.producer.client import Client
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import (
    KeyConflict,
    NotAllowed,
    OutputExists,
    StorageFull,
    StorageUnavailable,
    UnknownModel,
    UsageError,
)
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import broker_keys
from rerankfleet.shared.shown import amount
from rerankfleet.shared.storage import objects as objects_module
from rerankfleet.workers.monitor import Monitor
from tests.support.fleet import MODEL, worker_row
from tests.support.jobs import LINES, do, stored
from tests.support.records import hints_waiting
from tests.support.wait import patient, wait_until

# ---- which model --------------------------------------------------------------------------------


def test_the_only_model_that_is_served_need_not_be_named(api):
    assert api.choose_model(None) == MODEL


def test_without_a_name_nothing_is_guessed(settings, fleet):
    api = Client(settings)
    with pytest.raises(UnknownModel, match="this fleet has no worker now: name the model"):
        api.choose_model(None)
    fleet.beat(worker_row("w1", "a"))
    fleet.beat(worker_row("w2", "b"))
    with pytest.raises(UnknownModel, match="this fleet serves a, b: name the model"):
        api.choose_model(None)


def test_a_demonstration_model_is_never_chosen_silently(settings, fleet):
    fleet.beat(worker_row(model="pocket-text"))
    api = Client(settings)
    with pytest.raises(UnknownModel, match="only the demonstration model pocket-text: name it"):
        api.choose_model(None)
    assert api.choose_model("pocket-text") == "pocket-text"


def test_a_model_that_the_fleet_never_served_is_refused(api):
    with pytest.raises(UnknownModel, match=r"never served the model 'other'; it serves org/model"):
        api.choose_model("other")


def test_a_fleet_that_was_scaled_down_still_knows_its_model(api, fleet):
    fleet.leave("w1")
    assert api.workers() == []
    assert api.choose_model(MODEL) == MODEL


def test_a_folder_is_known_by_its_full_path(api, fleet, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    fleet.beat(worker_row("w2", str(tmp_path / "model")))
    monkeypatch.chdir(tmp_path)
    assert api.choose_model("./model") == str(tmp_path / "model")


# ---- submit -------------------------------------------------------------------------------------


def test_a_job_is_made_and_its_feed_is_hinted(api, source, store, settings, tmp_path):
    job_id = api.submit(source, top_n=2, priority="bulk", instruction="find")

    job = store.jobs.get(job_id)
    assert (job.spec.model, job.spec.top_n, job.spec.priority) == (MODEL, 2, Priority.bulk)
    assert job.spec.name == "input.jsonl"
    assert stored(tmp_path) == [f"jobs/{job_id}/input.jsonl"]
    assert hints_waiting(store, broker_keys(settings, ["control"])) == 1
    status = api.status(job_id)
    assert (status.state, status.progress.total) == ("running", None)
    assert [s.id for s in api.jobs()] == [job_id]


def test_the_same_key_and_input_are_the_same_job(api, source, jsonl, tmp_path, store, settings):
    first = api.submit(source, key="mine", top_n=2)
    other = jsonl(*LINES, name="another-name.jsonl")

    assert api.submit(other, key="mine", top_n=2) == first
    assert stored(tmp_path) == [f"jobs/{first}/input.jsonl"]
    assert store.jobs.recent() == [first]


def test_the_same_key_with_other_input_or_options_is_refused(api, source, jsonl, tmp_path):
    first = api.submit(source, key="mine")
    for path, options in ((jsonl(LINES[0], name="x"), {}), (source, {"top_n": 1})):
        with pytest.raises(KeyConflict, match=f"belongs to job {first}"):
            api.submit(path, key="mine", **options)
    assert stored(tmp_path) == [f"jobs/{first}/input.jsonl"]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"model": "other"}, UnknownModel, "never served"),
        ({"top_n": -1}, UsageError, "top_n is wrong"),
        ({"max_length": 5}, UsageError, "max_length is wrong"),
        ({"temperature": 9}, UsageError, "temperature is wrong"),
        ({"top_p": 0}, UsageError, "top_p is wrong"),
        ({"instructions": {"xx": "Find"}}, UsageError, "instructions is wrong: 'xx' is no known"),
        ({"profile": "shop"}, UsageError, "there is no profile 'shop': use one of academic"),
        ({"priority": "soon"}, UsageError, "priority is wrong"),
        ({"colour": "red"}, UsageError, "colour is wrong"),
        ({"output": "s3://other/out"}, NotAllowed, "bucket 'other' is not allowed"),
        ({"output": "file:///etc/out"}, NotAllowed, "folder /etc is not allowed"),
        ({"output": "/tmp"}, UsageError, "is a folder"),
    ],
)
def test_bad_options_stop_at_the_door(api, source, store, tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        api.submit(source, **options)
    assert store.jobs.unfinished() == []
    assert stored(tmp_path) == []


def test_bad_input_stops_at_the_door(api, store, tmp_path, jsonl):
    for source, says in (
        (tmp_path / "none", "does not exist"),
        (jsonl(b"a,b"), "not JSON Lines"),
        ("s3://other/in", "not allowed"),
        ("file:///etc/passwd", "not allowed"),
    ):
        with pytest.raises(UsageError, match=says):
            api.submit(source)
    assert store.jobs.unfinished() == []
    assert stored(tmp_path) == []


@pytest.mark.parametrize("catalog", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("any"), redis.ConnectionError("refused")])
def test_a_job_that_could_not_be_made_leaves_no_files(
    api, jsonl, tmp_path, monkeypatch, catalog, error
):
    path = jsonl(*(["s3://pairs/a.jpg"] if catalog else LINES), name="in.txt")

    def broken(*_: Any, **__: Any) -> str:
        assert stored(tmp_path)
        raise error

    monkeypatch.setattr(api.store.jobs, "create", broken)
    with pytest.raises(type(error)):
        api.submit_catalog(path, ["q"]) if catalog else api.submit(path)
    assert stored(tmp_path) == []


def test_a_job_that_is_made_keeps_its_files_however_long_it_takes(api, source, store, tmp_path):
    job_id = api.submit(source)
    assert store.client.zcard(store.keys.sweep) == 0
    assert stored(tmp_path) == [f"jobs/{job_id}/input.jsonl"]


@pytest.mark.parametrize("case", ["refused", "same key"])
def test_files_that_cannot_be_dropped_at_once_are_left_to_the_monitor(
    api, jsonl, source, store, tmp_path, monkeypatch, case
):
    # given a submission that is refused, or repeated, after its upload while the storage is away
    first = api.submit(source, key="k")
    other = jsonl(*LINES[:2], name="other.jsonl")

    def away(_: str) -> None:
        raise StorageUnavailable("the disk is away")

    monkeypatch.setattr(api.objects, "delete_tree", away)
    if case == "refused":
        with pytest.raises(KeyConflict):
            api.submit(other, key="k")
    else:
        assert api.submit(source, key="k") == first
    monkeypatch.undo()
    # then its files are known, and are removed once its time is over
    (left,) = store.client.zrange(store.keys.sweep, 0, -1)
    assert left != first
    assert f"jobs/{left}/input.jsonl" in stored(tmp_path)
    store.client.zadd(store.keys.sweep, {left: 0})
    Monitor(store, api.objects, api._hints, api.settings).sweep()
    assert stored(tmp_path) == [f"jobs/{first}/input.jsonl"]


def test_a_catalog_whose_queries_cannot_be_kept_leaves_no_files(api, jsonl, tmp_path, monkeypatch):
    def broken(*_: Any) -> None:
        assert stored(tmp_path)
        raise StorageUnavailable("the disk is full")

    listing = jsonl("s3://pairs/a.jpg", name="images.txt")
    monkeypatch.setattr(api.objects, "write", broken)
    with pytest.raises(StorageUnavailable):
        api.submit_catalog(listing, ["q"])
    assert stored(tmp_path) == []


def test_a_job_of_which_only_the_reply_was_lost_keeps_its_files(
    api, source, control, store, monkeypatch
):
    create = api.store.jobs.create

    def lost(*args: Any, **options: Any) -> str:
        create(*args, **options)
        raise redis.ConnectionError("closed by the server")

    monkeypatch.setattr(api.store.jobs, "create", lost)
    with pytest.raises(redis.ConnectionError):
        api.submit(source)
    # then it is there, and can be worked on
    (job_id,) = store.jobs.unfinished()
    do(control, job_id)
    assert len(list(api.results(job_id))) == len(LINES)


def test_without_a_redis_that_says_so_no_files_are_dropped(api, source, tmp_path, monkeypatch):
    def away(*_: Any, **__: Any) -> None:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(api.store.jobs, "create", away)
    monkeypatch.setattr(api.store.jobs, "get_many", away)
    with pytest.raises(redis.ConnectionError):
        api.submit(source)
    assert len(stored(tmp_path)) == 1  # a job may stand that needs it


def test_an_output_that_exists_is_kept(api, source, tmp_path):
    (tmp_path / "allowed").mkdir()
    for out in (tmp_path / "out", tmp_path / "allowed" / "out"):
        out.write_text("mine")
    for target in (tmp_path / "out", file_uri(tmp_path / "allowed" / "out")):
        with pytest.raises(OutputExists, match="exists: set `force`"):
            api.submit(source, output=target)
        api.submit(source, output=target, force=True)


def test_ones_own_profiles_come_from_the_settings(settings, fleet, source, store, tmp_path):
    fleet.beat(worker_row())
    file = tmp_path / "profiles.toml"
    file.write_text('[shop]\nbase = "ecommerce"\ninstructions = {de = "Finde Waren"}')
    api = Client(settings.model_copy(update={"profiles": file}))

    spec = store.jobs.get(api.submit(source, profile="shop", temperature=0.5)).spec

    assert (spec.profile, spec.temperature, spec.max_length) == ("shop", 0.5, 4096)
    assert spec.instructions == {"de": "Finde Waren"}


# ---- the quota of jobs --------------------------------------------------------------------------


@pytest.fixture
def limited(settings, fleet):
    """`limited(3000)`: a client of a fleet whose jobs may keep so many bytes."""
    fleet.beat(worker_row())
    return lambda size: Client(settings.model_copy(update={"jobs_bytes_max": size}))


@pytest.mark.parametrize("catalog", [False, True])
def test_a_job_beyond_the_quota_is_refused_before_any_work(
    limited, jsonl, store, tmp_path, catalog
):
    # given a job that keeps most of what jobs may
    source = jsonl(*(["s3://pairs/a.jpg" * 10] * 100 if catalog else LINES * 10), name="in.txt")
    size = source.stat().st_size
    api = limited(int(1.9 * size))
    submit = (
        (lambda: api.submit_catalog(source, ["q"])) if catalog else (lambda: api.submit(source))
    )
    first = submit()
    kept = stored(tmp_path)
    # when another one does not fit
    with pytest.raises(StorageFull) as refused:
        submit()
    # then it says what is used, what is allowed, and what to do
    assert "jobs keep" in str(refused.value)
    assert f"of {amount(int(1.9 * size))} at most" in str(refused.value)
    assert "RERANK_JOBS_BYTES_MAX" in refused.value.hint
    assert (stored(tmp_path), store.jobs.unfinished()) == (kept, [first])
    assert size <= store.ledger.used("jobs") < 1.1 * size


def test_an_input_of_unknown_size_is_stopped_at_the_quota(limited, store, tmp_path, monkeypatch):
    api = limited(300_000)
    monkeypatch.setattr(
        "sys.stdin",
        SimpleNamespace(buffer=io.BytesIO(json.dumps(LINES[0]).encode() + b" " * 10**6)),
    )
    with pytest.raises(StorageFull):
        api.submit("-")
    assert stored(tmp_path) == []
    assert store.ledger.used("jobs") == 0


def test_what_a_job_keeps_is_counted_until_it_is_removed(
    limited, control, store, objects, client, tmp_path, hints
):
    # given a job at its end
    def on_disk() -> int:
        return sum((tmp_path / "storage" / name).stat().st_size for name in stored(tmp_path))

    api = limited(1_000_000)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    job_id = api.submit(tmp_path / "in.jsonl")
    do(control, job_id)
    assert api.status(job_id).state == "done"
    # then all its files are counted
    assert store.ledger.used("jobs") == on_disk() > 0
    monitor = Monitor(store, objects, hints, api.settings)
    for gone in ("shards and parts", "everything"):
        # when some or all of them are removed
        client.zadd(store.keys.sweep, {job_id: 0})
        if gone == "everything":
            client.delete(store.keys.job(job_id))
        monitor.sweep()
        assert store.ledger.used("jobs") == on_disk(), gone
    assert on_disk() == 0


def test_a_submission_lives_as_long_as_its_process_however_slow_its_input(
    api, source, store, monkeypatch
):
    # given an input that comes more slowly than a reservation lasts
    monkeypatch.setattr(quotas, "LEASE_S", patient(0.5))
    real, due = objects_module.Objects.stat, []

    def slow(self: Any, uri: str) -> Any:
        if uri.endswith("/input.jsonl") and not due:
            job_id = uri.split("/")[-2]
            due.append(store.client.zscore(store.keys.sweep, job_id))
            renewed = lambda: store.client.zscore(store.keys.sweep, job_id) > due[0] + 500  # noqa: E731
            wait_until(renewed, 20, "it is renewed")
        return real(self, uri)

    monkeypatch.setattr(objects_module.Objects, "stat", slow)
    job_id = api.submit(source)
    assert store.jobs.get(job_id).number("input_bytes") == source.stat().st_size
    assert store.client.zcard(store.keys.sweep) == 0
