"""Client: what is refused before any work starts, and the verbs on a job."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.feed import Control, feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.process import children
from rerankfleet.producer.interactive import Answer
from rerankfleet.shared.calibration import relevance_score
from rerankfleet.shared.errors import (
    DeadlineExceeded,
    InputChanged,
    ItemError,
    KeyConflict,
    ModelLoading,
    NotAllowed,
    NoWorker,
    OutputExists,
    Overloaded,
    QueueUnavailable,
    StorageUnavailable,
    TooLarge,
    UnknownJob,
    UnknownModel,
    UsageError,
    WrongState,
)
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.profiles import PROFILES
from rerankfleet.shared.queue import broker_keys, model_queue
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import file_uri
from tests.support.fleet import MODEL, Worker, margin_of, run, worker_row
from tests.support.server import free_port
from tests.support.wait import wait_until

LINES = [{"id": n, "query": f"q{n}", "documents": ["a", "b", f"c{n}"]} for n in range(4)]


@pytest.fixture
def api(settings: Settings, fleet) -> Client:
    """A client of a fleet that serves one model."""
    fleet.beat(worker_row())
    return Client(settings)


@pytest.fixture
def source(jsonl) -> Path:
    return jsonl(*LINES)


def do(control: Control, job_id: str, **options: Any) -> None:
    """Carry a submitted job to its end."""
    control.hints.feed(job_id)
    run(control, Worker(control, **options))


def stored(tmp_path: Path) -> list[str]:
    root = tmp_path / "storage"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


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
    with pytest.raises(UnknownModel, match="only the demonstration model pocket-text: say --model"):
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
    assert store.broker.waiting_count(broker_keys(settings, ["control"])) == 1
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
        ({"top_n": 0}, UsageError, "top_n is wrong"),
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
        with pytest.raises(OutputExists, match="exists: use --force"):
            api.submit(source, output=target)
        api.submit(source, output=target, force=True)


def test_a_redis_that_does_not_answer_is_one_sentence():
    settings = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(QueueUnavailable, match=r"does not answer \(ConnectionError\): start it"):
        Client(settings)


# ---- verbs --------------------------------------------------------------------------------------


def test_a_finished_job_can_be_read_and_fetched(api, source, control, tmp_path):
    job_id = api.submit(source, output=tmp_path / "out.jsonl")
    with pytest.raises(WrongState, match="is not finished: wait for it, or ask for partial"):
        list(api.results(job_id))
    with pytest.raises(WrongState, match="is not finished"):
        api.fetch(job_id, tmp_path / "out.jsonl")
    do(control, job_id)

    status = api.wait(job_id, timeout_s=5)
    found = list(api.results(job_id))
    api.fetch(job_id, tmp_path / "out.jsonl")

    assert (status.state, status.progress.scored) == ("done", 12)
    assert [line["id"] for line in found] == [0, 1, 2, 3]
    written = (tmp_path / "out.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line) for line in written] == found
    assert json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["scored"] == 12


def test_waiting_ends_at_its_deadline_and_tells_progress(api, source):
    job_id = api.submit(source)
    seen = []
    with pytest.raises(DeadlineExceeded, match=f"job {job_id} still runs"):
        api.wait(job_id, timeout_s=0, on_progress=seen.append)
    assert [status.state for status in seen] == ["running"]


def test_verbs_that_the_state_does_not_permit_are_refused(api, source, control):
    job_id = api.submit(source)
    with pytest.raises(WrongState, match="cannot be resumed: it is not paused"):
        api.resume(job_id)
    with pytest.raises(WrongState, match="is not finished: wait for it, or cancel it"):
        api.retry(job_id)
    do(control, job_id)
    for verb, done in ((api.cancel, "cancelled"), (api.pause, "paused"), (api.resume, "resumed")):
        with pytest.raises(WrongState, match=f"cannot be {done}: it is already finished"):
            verb(job_id)
    with pytest.raises(WrongState, match="has nothing to retry"):
        api.retry(job_id)
    with pytest.raises(UsageError, match="'some' is not known: use all or errors"):
        api.retry(job_id, "some")
    for verb in (api.status, api.cancel, api.pause, api.resume, api.retry, api.wait):
        with pytest.raises(UnknownJob, match="there is no job nope"):
            verb("nope")


def test_pause_and_resume_hint_what_waits(api, source, control, store, settings):
    job_id = api.submit(source)
    feed(job_id, control)
    api.pause(job_id)
    assert (api.status(job_id).state, api.status(job_id).reason) == ("paused", "paused by the user")

    api.resume(job_id)

    keys = broker_keys(settings, [model_queue(MODEL, Priority.normal)])
    assert {f"{job_id}/{s}" for s in client_shards(store, job_id)} == store.broker.hint_ids(keys)


def test_a_profile_stands_in_the_job_and_in_every_score(api, source, control, store):
    job_id = api.submit(source, profile="academic", top_p=0.9, temperature=None, top_n=2)
    spec = store.jobs.get(job_id).spec
    assert (spec.profile, spec.temperature, spec.top_p) == ("academic", 0.7, 0.9)
    assert spec.instruction == PROFILES["academic"].instruction

    do(control, job_id)

    found = [result for line in api.results(job_id) for result in line["results"]]
    assert len(found) == 8
    for result in found:
        assert result["relevance_score"] == relevance_score(result["margin"], 0.7, 0.9)
    assert {0.0, 1.0} & {result["relevance_score"] for result in found}


def test_ties_of_the_nucleus_are_ranked_by_margin(api, source, control):
    job_id = api.submit(source, temperature=0.1, top_p=0.6)
    do(control, job_id)

    for line in api.results(job_id):
        margins = [result["margin"] for result in line["results"]]
        assert {result["relevance_score"] for result in line["results"]} <= {0.0, 1.0}
        assert margins == sorted(margins, reverse=True)


def test_ones_own_profiles_come_from_the_settings(settings, fleet, source, store, tmp_path):
    fleet.beat(worker_row())
    file = tmp_path / "profiles.toml"
    file.write_text('[shop]\nbase = "ecommerce"\ninstructions = {de = "Finde Waren"}')
    api = Client(settings.model_copy(update={"profiles": file}))

    spec = store.jobs.get(api.submit(source, profile="shop", temperature=0.5)).spec

    assert (spec.profile, spec.temperature, spec.max_length) == ("shop", 0.5, 4096)
    assert spec.instructions == {"de": "Finde Waren"}


def client_shards(store, job_id: str) -> list[str]:
    return store.client.hkeys(store.keys.job_open(job_id))


def test_cancelling_twice_is_harmless(api, source, control):
    job_id = api.submit(source)
    api.cancel(job_id)
    api.cancel(job_id)
    do(control, job_id)

    status = api.wait(job_id, timeout_s=5)
    assert (status.state, status.progress.cancelled) == ("cancelled", 12)


def test_a_retry_refuses_changed_input(api, control, tmp_path):
    (tmp_path / "allowed").mkdir()
    path = tmp_path / "allowed" / "in"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    job_id = api.submit(file_uri(path))
    do(control, job_id, fails="c1")
    path.write_text(path.read_text() + "\n")

    with pytest.raises(InputChanged):
        api.retry(job_id)
    assert api.status(job_id).state == "done"


def test_a_retried_job_ends_with_everything_scored(api, source, control):
    job_id = api.submit(source)
    do(control, job_id, fails="c1")
    assert api.status(job_id).progress.errors == 1

    api.retry(job_id, "errors")
    assert api.status(job_id).state == "running"
    do(control, job_id)

    status = api.status(job_id)
    assert (status.state, status.progress.errors, status.progress.scored) == ("done", 0, 12)
    assert status.round == 1


def test_jobs_that_are_gone_are_not_listed(api, source, control, client, store):
    job_id = api.submit(source)
    do(control, job_id)
    client.delete(store.keys.job(job_id), store.keys.job_parts(job_id))
    assert api.jobs() == []


# ---- a small request ----------------------------------------------------------------------------


def serve(control: Control, stop: threading.Event, **options: Any) -> threading.Thread:
    """A worker that takes whatever waits, until it is stopped."""

    def loop() -> None:
        worker = Worker(control, **options)
        while not stop.wait(0.01):
            worker.work()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def served(control):
    """Workers score while the test runs."""
    stop = threading.Event()
    thread = serve(control, stop)
    yield
    stop.set()
    thread.join(5)


def test_a_small_request_takes_a_profile_too(api, served):
    line = api.rerank("q", ["a", "b"], profile="multilingual", top_p=0.95, timeout_s=20)

    for found in line["results"]:
        assert found["relevance_score"] == relevance_score(found["margin"], 0.6, 0.95)


def test_a_small_request_is_answered(api, served, store, tmp_path):
    documents = ["a", {"id": "x", "text": "b"}, 5]

    line = api.rerank("q", documents, top_n=2, timeout_s=20)

    assert {r["index"]: r["margin"] for r in line["results"]} == {
        0: margin_of("q", "a"),
        1: margin_of("q", "b"),
    }
    assert [(e["index"], e["code"]) for e in line["errors"]] == [(2, "invalid_document")]
    assert line["provenance"]["model"] == MODEL
    assert store.jobs.unfinished() == []
    assert store.jobs.recent() == []
    assert stored(tmp_path) == []


def test_a_small_request_with_a_key_is_answered_once(api, served, store):
    def ask(text: str = "a", **options: Any) -> Answer:
        fields = {"query": "q", "documents": [text]}
        return api.ask([slice_of(1, fields, max_documents=9)], key="mine", timeout_s=20, **options)

    first, again = ask(), ask()
    assert first.job.id == again.job.id
    assert first.outcomes == again.outcomes
    for other in ({"text": "b"}, {"top_p": 0.5}):
        with pytest.raises(KeyConflict, match="the key 'mine' belongs to job"):
            ask(**other)


def test_documents_carry_their_id_and_metadata_through_a_small_request(api, served):
    document = {"id": "x", "metadata": {"sku": [1, None]}}

    line = api.rerank("q", [document | {"text": "b"}, document | {"text": 1}], timeout_s=20)

    (found,), (failed,) = line["results"], line["errors"]
    assert (found["id"], found["metadata"]) == ("x", document["metadata"])
    assert (failed["id"], failed["retryable"]) == ("x", False)


def test_a_small_request_may_hold_images(api, served):
    line = api.rerank(
        {"text": "q", "image": "s3://b/q.jpg"},
        [{"id": "x", "image": "s3://b/x.jpg"}, {"image": "ftp://b/y.jpg"}],
        image_preset="product",
        timeout_s=20,
    )

    assert [(r["id"], r["margin"]) for r in line["results"]] == [
        ("x", margin_of("q s3://b/q.jpg", "s3://b/x.jpg"))
    ]
    assert [(e["index"], e["code"]) for e in line["errors"]] == [(1, "invalid_document")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image_preset": "huge"}, "image_preset is wrong: expected one of general, product"),
        ({"max_crop": 2}, "max_crop is wrong"),
        ({"key": "k"}, "there is no option 'key' here: known: explain, image_preset"),
    ],
)
def test_a_small_request_with_a_wrong_option_is_refused(api, options, says):
    with pytest.raises(UsageError, match=says):
        api.rerank("q", ["a"], **options)


def test_a_larger_request_is_cut_into_shards(api, served, fleet):
    fleet.beat(worker_row("w2"))
    documents = [f"document {i} " + "x" * 200 for i in range(300)]

    line = api.rerank("q", documents, timeout_s=20)

    assert sorted(r["index"] for r in line["results"]) == list(range(300))


def test_a_request_that_nobody_answers_in_time_is_cancelled(api, store):
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0.05 s"):
        api.rerank("q", ["a"], timeout_s=0.05)
    assert store.jobs.unfinished() == []
    assert store.shards.backlog(MODEL) == 0


def test_a_request_that_the_monitor_ended_is_told_so(api, store):
    errors = []

    def ask() -> None:
        try:
            api.rerank("q", ["a"], timeout_s=20)
        except DeadlineExceeded as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    (job_id,) = wait_until(store.jobs.unfinished)
    store.jobs.cancel(store.jobs.get(job_id))
    asking.join(10)

    assert len(errors) == 1


@pytest.mark.parametrize(
    ("query", "documents", "code"),
    [
        ("", ["a"], "empty_query"),
        ("q", [], "no_documents"),
        ("q", ["a"] * 10_001, "too_many_documents"),
    ],
)
def test_a_bad_request_is_refused(api, query, documents, code):
    with pytest.raises(ItemError) as caught:
        api.rerank(query, documents)
    assert caught.value.code == code


def test_without_a_worker_a_request_is_not_begun(api, fleet):
    fleet.leave("w1")
    with pytest.raises(NoWorker, match=f"no worker serves {MODEL} now"):
        api.rerank("q", ["a"], model=MODEL)


@pytest.mark.parametrize("others", [(), ("loading",), ("draining",)])
def test_a_model_that_is_being_loaded_is_told_at_once(api, fleet, others):
    fleet.beat(worker_row(state="loading"))
    for number, state in enumerate(others):
        fleet.beat(worker_row(f"o{number}", state=state))
    with pytest.raises(ModelLoading, match=f"the workers of {MODEL} are loading it"):
        api.rerank("q", ["a"], model=MODEL)
    assert api.store.jobs.unfinished() == []


def test_the_workers_are_read_once_for_a_request(api, monkeypatch):
    reads = []
    snapshot = api.store.snapshot
    monkeypatch.setattr(api.store, "snapshot", lambda *a, **b: reads.append(1) or snapshot(*a, **b))
    with pytest.raises(DeadlineExceeded):
        api.rerank("q", ["a"], timeout_s=0.05)
    assert len(reads) == 1


def test_a_full_queue_or_a_large_payload_is_sent_away(fleet, change, real_hints):
    fleet.beat(worker_row())
    api = Client(change(interactive_queue_max=2, inline_bytes_max=1000))
    with pytest.raises(TooLarge, match="at most 1000 fit: submit it as a job"):
        api.rerank("q", ["x" * 2000])
    for n in range(2):
        real_hints.shard(MODEL, Priority.interactive, "j", f"{n}-{n + 1}")
    with pytest.raises(Overloaded, match="2 interactive shards wait already: try again"):
        api.rerank("q", ["a"])


# ---- status -------------------------------------------------------------------------------------


def reason(api: Client, job_id: str) -> str:
    return api.status(job_id).reason


def test_the_status_names_what_holds_a_job_back(api, source, control, store, fleet):
    job_id = api.submit(source)
    assert reason(api, job_id) == "feeding: the input is being read"

    feed(job_id, control)
    assert reason(api, job_id) == "queue: its shards wait for a worker"

    shard = client_shards(store, job_id)[0]
    lease = Worker(control).claimed(job_id, shard)
    fleet.beat(worker_row(busy_share=0.9, preparing_share=0.1))
    assert reason(api, job_id) == "device: 1 worker, 90% busy"
    fleet.beat(worker_row(busy_share=0.2, preparing_share=0.7))
    assert reason(api, job_id) == "preparing: devices wait for input 70% of the time"

    fleet.beat(worker_row(state="loading"))
    assert reason(api, job_id) == "workers are loading the model"
    fleet.beat(worker_row(fingerprint="weights-2"))
    assert "begun with other weights" in reason(api, job_id)
    fleet.leave("w1")
    assert reason(api, job_id) == (
        f"no worker serves {MODEL}: start `rerank worker --model {MODEL}`"
    )
    store.jobs.set_facts(job_id, waiting_for="the disk is full")
    assert reason(api, job_id) == "storage: the disk is full"
    store.jobs.pause(store.jobs.get(job_id), "lunch")
    assert reason(api, job_id) == "lunch"
    store.jobs.resume(store.jobs.get(job_id))
    Worker(control).commit(lease)


def test_the_status_of_a_job_counts_and_estimates(api, source, control, store):
    job_id = api.submit(source)
    feed(job_id, control)
    assert api.status(job_id).pairs_per_s == 0
    assert api.status(job_id).eta_s is None

    worker = Worker(control)
    worker.work(1)
    status = api.status(job_id)
    assert status.pairs_per_s > 0
    store.jobs.pause(store.jobs.get(job_id), "lunch")
    assert api.status(job_id).pairs_per_s == 0
    store.jobs.resume(store.jobs.get(job_id))
    worker.work()
    assert api.status(job_id).state == "finishing"
    finish(job_id, control)

    status = api.status(job_id)
    assert (status.state, status.reason, status.open_shards) == ("done", "", 0)
    assert status.finished_s >= status.created_s
    assert status.pairs_per_s > 0
    assert status.output.endswith("/output-0.jsonl")


def test_a_coordinator_is_two_processes(settings):
    assert [child.name for child in children(settings)] == ["coordinator", "monitor"]
    assert children(settings)[0].env["RERANK_KEY_PREFIX"] == settings.key_prefix
