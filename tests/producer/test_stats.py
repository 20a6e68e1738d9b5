"""Statistics along the way of a job, what its scores do to its profile, and `rerank stats`."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.finish import SCORES_TO_ADAPT, finish
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.producer.terminal import stats
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import DeadlineExceeded, UnknownJob, UsageError
from rerankfleet.shared.formats.shard_files import count_requests, load_slices
from rerankfleet.shared.score_distribution import ScoreDistribution
from tests.support.fleet import MODEL, Worker, margin_of, run, worker_row

MANY = [{"query": f"q{n}", "documents": [f"d{i}" for i in range(10)]} for n in range(12)]
FEW = MANY[:9]


@pytest.fixture
def control(store, fleet, objects, hints, change) -> Control:
    """Shards of seven pairs: requests lie in two or three of them."""
    fleet.beat(worker_row())
    return Control(store, objects, hints, change(shard_pairs_max=7, window_min=1000))


@pytest.fixture
def api(control) -> Client:
    return Client(control.settings)


def do(control: Control, job_id: str, **options: Any) -> None:
    """Carry a submitted job to its end."""
    control.hints.feed(job_id)
    run(control, Worker(control, **options))


def row(api: Client, kind: str, name: str):
    return next(r for r in api.store.statistics.rows(24) if (r.kind, r.name) == (kind, name))


def shown(report: stats.Report) -> str:
    out = StringIO()
    Console(file=out, width=160).print(stats.render(report))
    return out.getvalue()


# ---- what is counted ----------------------------------------------------------------------------


def test_a_request_over_many_shards_is_one_request(api, control, jsonl):
    lines = [*MANY, b"no json", {"query": "q", "documents": [5, "good", ""]}]
    job_id = api.submit(jsonl(*lines))

    do(control, job_id, fails="d3")

    statistics, job = row(api, "model", MODEL), api.store.jobs.get(job_id)
    assert (statistics.requests, statistics.bad_lines) == (len(lines) - 1, 1)
    assert statistics.shards > len(lines)
    assert statistics.pairs == job.progress.pairs == job.progress.done - 1 == 10 * 12 + 3
    assert statistics.errors == job.progress.errors == 12 + 1 + 1
    margins = [margin_of(line["query"], d) for line in MANY for d in line["documents"] if d != "d3"]
    margins += [margin_of("q", "good"), margin_of("q", "")]
    exact = {"count", "above", "below", "bins"}
    expected = ScoreDistribution.of(margins).model_dump(include=exact)
    assert statistics.scores.model_dump(include=exact) == expected
    assert job.scores.model_dump(include=exact) == expected


def test_a_request_that_is_split_after_it_was_cut_is_one_request(api, control, jsonl):
    """Given a shard that is replaced by its halves, in the middle of a request."""
    job_id = api.submit(jsonl(MANY[0]))
    control.hints.feed(job_id)
    run(control)
    (_, shard), *_ = control.store.shards.due(MODEL, 9)
    lease = Worker(control).claimed(job_id, shard)

    halves = [load_slices(control.objects, job_id, lease.file, half) for half in ("0-4", "4-7")]

    assert [count_requests(slices) for slices in halves] == [1, 0]
    assert count_requests([Slice(line=1)]) == 1
    control.store.shards.release(lease)
    do(control, job_id)


def test_in_a_catalog_an_image_is_a_request(api, control, tmp_path):
    images = tmp_path / "images.txt"
    images.write_text("".join(f"s3://b/{n}.jpg\n" for n in range(5)))
    job_id = api.submit_catalog(images, [f"query {n}" for n in range(9)])

    do(control, job_id)

    statistics = row(api, "model", MODEL)
    assert (statistics.requests, statistics.pairs) == (5, 45)
    assert statistics.shards > 5


def test_a_retry_adds_only_what_failed(api, control, jsonl):
    job_id = api.submit(jsonl(*MANY))
    do(control, job_id, fails="d3")
    api.retry(job_id)

    do(control, job_id)

    job = api.store.jobs.get(job_id)
    assert job.scores.count == job.progress.scored == 120
    statistics = row(api, "model", MODEL)
    assert (statistics.scored, statistics.errors, statistics.requests) == (120, 12, 24)


def test_a_job_counts_under_its_profile_with_its_temperature(api, control, jsonl):
    job_id = api.submit(jsonl(*FEW), profile="academic")

    do(control, job_id)

    margins = [margin_of(line["query"], d) for line in FEW for d in line["documents"]]
    assert row(api, "profile", "academic").scores.bins == ScoreDistribution.of(margins, 0.7).bins


# ---- what scores do to a profile ----------------------------------------------------------------


def adaptive(api: Client, source: Path, **options: Any) -> str:
    options = {"profile": "default", "adaptive_temperature": True} | options
    return api.submit(source, **options)


def test_later_jobs_of_a_profile_take_the_temperature_that_scores_chose(api, control, jsonl):
    """Given scores whose mean is about a half."""
    job_id = adaptive(api, jsonl(*MANY))
    begun = adaptive(api, jsonl(*MANY))
    do(control, job_id)

    assert api.store.jobs.get(job_id).spec.temperature == 1.0
    assert api.store.jobs.get(begun).spec.temperature == 1.0  # scores within one job always compare
    later = api.submit(jsonl(*FEW), profile="default")
    assert api.store.jobs.get(later).spec.temperature == 0.9
    own = api.submit(jsonl(*FEW), profile="default", temperature=0.5)
    assert api.store.jobs.get(own).spec.temperature == 0.5
    other = api.submit(jsonl(*FEW), profile="academic")
    assert api.store.jobs.get(other).spec.temperature == 0.7
    for one in (begun, later, own, other):
        do(control, one)
    (change,) = api.store.statistics.temperature_changes("default")  # `begun` was at another one
    assert (change.job, change.before, change.to) == (job_id, 1.0, 0.9)
    assert 0.4 < change.mean < 0.6


def test_a_job_adapts_once_however_often_it_is_finished(api, control, jsonl, monkeypatch):
    job_id = adaptive(api, jsonl(*MANY))
    real = control.store.jobs.finish
    monkeypatch.setattr(control.store.jobs, "finish", lambda *_: False)  # as if killed before
    do(control, job_id, fails="d3")
    for token in api.store.client.hmget(api.store.keys.job(job_id), "step_token"):
        api.store.jobs.end_step(job_id, token)
    monkeypatch.setattr(control.store.jobs, "finish", real)
    finish(job_id, control)
    api.retry(job_id)
    do(control, job_id)

    assert api.store.jobs.get(job_id).finished
    assert len(api.store.statistics.temperature_changes("default")) == 1


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (FEW, {}),
        (MANY, {"profile": "own", "temperature": 0.8, "adaptive_temperature": None}),
        (MANY, {"adaptive_temperature": False}),
    ],
    ids=["few scores", "a temperature of its own", "not asked for"],
)
def test_a_job_that_says_nothing_changes_nothing(control, jsonl, tmp_path, lines, options):
    assert len(FEW) * 10 < SCORES_TO_ADAPT
    file = tmp_path / "profiles.toml"
    file.write_text("[own]\nadaptive_temperature = true")
    api = Client(control.settings.model_copy(update={"profiles": file}))

    do(control, adaptive(api, jsonl(*lines), **options))

    for profile in ("default", "own"):
        assert api.store.statistics.temperature_changes(profile) == []


def test_a_job_with_a_temperature_of_its_own_may_not_ask_for_adapting(api, jsonl):
    with pytest.raises(UsageError, match="temperature of its own"):
        adaptive(api, jsonl(*MANY), temperature=0.8)


def test_a_given_temperature_changes_no_profile_though_it_is_the_profiles_own(
    control, jsonl, tmp_path
):
    file = tmp_path / "profiles.toml"
    file.write_text("[own]\nadaptive_temperature = true\ntemperature = 0.5")
    api = Client(control.settings.model_copy(update={"profiles": file}))

    do(control, api.submit(jsonl(*MANY), profile="own", temperature=0.5))

    assert api.store.statistics.temperature_changes("own") == []


def test_a_changed_profile_is_not_hidden_by_what_was_adapted(control, jsonl, tmp_path):
    # given a profile that was adapted from 1.0 to 0.9
    file = tmp_path / "profiles.toml"
    file.write_text("[own]\nadaptive_temperature = true")
    api = Client(control.settings.model_copy(update={"profiles": file}))
    do(control, api.submit(jsonl(*MANY), profile="own"))
    begun = api.submit(jsonl(*MANY), profile="own")
    assert api.store.jobs.get(begun).spec.temperature == 0.9
    # when its file gives it another temperature
    file.write_text("[own]\nadaptive_temperature = true\ntemperature = 0.5")
    later = api.submit(jsonl(*MANY), profile="own")
    # then that one holds, and adapting goes on from there
    assert api.store.jobs.get(later).spec.temperature == 0.5
    do(control, later)
    do(control, begun)  # at what the profile had before
    assert [c.to for c in api.store.statistics.temperature_changes("own")] == [0.45, 0.9]


def test_a_cancelled_job_changes_nothing(api, control, jsonl):
    job_id = adaptive(api, jsonl(*MANY))
    control.hints.feed(job_id)
    run(control)
    Worker(control).work(17)
    api.cancel(job_id)
    do(control, job_id)

    assert api.store.jobs.get(job_id).scores.count >= SCORES_TO_ADAPT
    assert api.store.statistics.temperature_changes("default") == []


def test_the_same_key_is_the_same_job_after_its_profile_changed(api, control, jsonl):
    source = jsonl(*MANY)
    job_id = adaptive(api, source, key="monday")
    do(control, job_id)
    assert api.store.statistics.profile_temperature("default", 1.0) == 0.9

    assert adaptive(api, source, key="monday") == job_id


def test_a_small_request_takes_what_its_profile_has_now(api, control, jsonl, monkeypatch):
    # given a profile whose temperature a job changed
    do(control, adaptive(api, jsonl(*MANY)))
    assert api.store.statistics.profile_temperature("default", 1.0) == 0.9
    # when requests of that profile are made that nobody answers in time
    used, create = [], api.store.jobs.create
    monkeypatch.setattr(
        api.store.jobs,
        "create",
        lambda job_id, spec, *rest, **more: (
            used.append(spec.temperature) or create(job_id, spec, *rest, **more)
        ),
    )
    for options in ({"profile": "default"}, {"profile": "default", "temperature": 0.5}, {}):
        with pytest.raises(DeadlineExceeded):
            api.rerank("q", ["d"], model=MODEL, timeout_s=0.1, **options)
    # then they were at its temperature, unless they had their own or no profile
    assert used == [0.9, 0.5, 1.0]


def test_adapting_needs_a_profile(api, jsonl, tmp_path):
    with pytest.raises(UsageError, match="none was named: name a profile"):
        api.submit(jsonl(*FEW), adaptive_temperature=True)
    assert not list((tmp_path / "storage").rglob("*.jsonl"))


# ---- rerank stats -------------------------------------------------------------------------------


def test_a_report_shows_rows_histograms_and_advice(api, control, fleet, jsonl):
    fleet.beat(worker_row(pairs_per_s=12.5, ooms=2, latency_p95_s=0.75))
    do(control, api.submit(jsonl(*MANY)))

    report = stats.report_on_fleet(api, 24)

    text = shown(report)
    assert "workers in the last 24 hours" in text
    assert "12.5" in text
    assert "750 ms" in text
    assert "scores of profile default: mean 0.4" in text or "mean 0.5" in text
    assert {one.symptom for one in report.advice} >= {
        "no coordinator",
        "the device ran out of memory",
    }
    for one in report.advice:
        assert one.symptom in text
    assert json.loads(report.model_dump_json())["statistics"][0]["latency"]["p50_s"] > 0


def test_a_report_on_a_job_is_of_that_job(api, control, jsonl):
    job_id = api.submit(jsonl(*MANY))
    assert f"scores of job {job_id}: none yet" in shown(stats.report_on_job(api, job_id))

    do(control, job_id)

    report = stats.report_on_job(api, job_id)
    assert report.job.scores.count == 120
    assert f"scores of job {job_id}: mean" in shown(report)
    with pytest.raises(UnknownJob):
        stats.report_on_job(api, "nothing")


def test_a_report_on_a_profile_shows_how_its_temperature_went(api, control, jsonl):
    do(control, adaptive(api, jsonl(*MANY)))

    report = stats.report_on_profile(api, "default", 24)

    assert [r.kind for r in report.statistics] == ["profile"]
    assert "temperature of later jobs" in shown(report)
    assert "0.9" in shown(report)


def test_an_idle_fleet_says_so(api):
    assert "nothing was scored in the last 2 hours" in shown(stats.report_on_fleet(api, 2))
