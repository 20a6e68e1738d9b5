"""The command `rerank`: exit codes, JSON for machines, and one sentence for what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from click.testing import CliRunner

from rerankfleet.producer.client import Client
from rerankfleet.producer.terminal import tables
from rerankfleet.shared import cli
from rerankfleet.shared.errors import RerankError
from rerankfleet.shared.job_status import Progress
from rerankfleet.shared.profiles import PROFILES
from tests.support.fleet import MODEL, Worker, run, worker_row
from tests.support.server import free_port
from tests.support.wait import wait_until

LINES = [{"id": f"r{n}", "query": f"q{n}", "documents": ["a", "b"]} for n in range(3)]
OK, FAILURE, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def rerank(settings, monkeypatch, capsys):
    """`rerank("submit", path)`: the command in this process, over the test's server."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "configure_logs", lambda: None)  # it is for a whole process

    def command(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["rerank", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        done = capsys.readouterr()
        assert "Traceback" not in done.err
        return Ran(int(code), done.out, done.err)

    return command


@pytest.fixture
def served(fleet):
    fleet.beat(worker_row())


@pytest.fixture
def source(jsonl) -> Path:
    return jsonl(*LINES)


@pytest.fixture
def finish_jobs(control, store):
    """Carries every unfinished job to its end while the test runs."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(0.01):
            for job_id in store.jobs.unfinished():
                control.hints.feed(job_id)
                run(control, Worker(control, fails="bad"))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(5)


def one_sentence(ran: Ran, *says: str) -> None:
    assert ran.out == ""
    assert ran.err.startswith("rerank: ")
    assert ran.err.count("\n") == 1
    for words in says:
        assert words in ran.err


# ---- help ---------------------------------------------------------------------------------------


def commands() -> dict[str, typer.core.TyperCommand]:
    return dict(typer.main.get_command(cli.build()).commands)


def test_both_sides_bring_their_commands():
    assert set(commands()) == {
        *("up", "demo", "coordinator", "worker", "score", "submit", "status", "watch", "results"),
        *("cancel", "pause", "resume", "retry", "jobs", "workers", "profiles", "stats", "health"),
        *("doctor", "study"),
        *("query", "top", "gateway"),
    }


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_explains_itself_with_an_example(name):
    shown = CliRunner().invoke(typer.main.get_command(cli.build()), [name, "--help"])

    assert shown.exit_code == OK
    assert "Example:" in shown.output
    assert f"rerank {name}" in shown.output
    for parameter in commands()[name].params:
        assert parameter.name == "help" or parameter.help, parameter.name


def test_without_arguments_there_is_help(rerank):
    ran = rerank()
    assert ran.code in (OK, USAGE)
    assert "submit" in ran.out + ran.err


def test_a_wrong_option_is_a_usage_error(rerank):
    for arguments in (["submit"], ["submit", "x", "--colour"], ["nonsense"]):
        assert rerank(*arguments).code == USAGE


# ---- the main job -------------------------------------------------------------------------------


def test_submit_prints_the_id_on_stdout_and_the_rest_on_stderr(rerank, served, source, store):
    ran = rerank("submit", source)

    (job_id,) = store.jobs.unfinished()
    assert ran == Ran(OK, f"{job_id}\n", f"watch it:  rerank watch {job_id}\n")
    again = rerank("submit", source, "--json")
    assert set(json.loads(again.out)) == {"id"}
    assert again.err == ""


def test_options_of_images_reach_the_job(rerank, served, source, store):
    options = {
        "image_preset": "art-detail",
        "resize_mode": "fit",
        "max_crop": 0.3,
        "min_pixels": 5000,
        "max_pixels": 500_000,
        "video_fps": 4.0,
        "video_max_frames": 8,
        "video_total_pixels": 1_000_000,
        "max_tokens_per_doc": 300,
        "quality_threshold": 0.5,
        "quality_action": "downweight",
        "max_error_rate": 0.1,
    }
    flags = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]

    job_id = rerank("submit", source, *(part for flag in flags for part in flag)).out.strip()

    assert options.items() <= store.jobs.get(job_id).spec.scoring_options.items()


def test_a_profile_reaches_the_job_and_options_override_its_fields(rerank, served, source, store):
    def spec(*options: object):
        return store.jobs.get(rerank("submit", source, *options).out.strip()).spec

    ecommerce = PROFILES["ecommerce"].options
    assert {**ecommerce, "profile": "ecommerce"}.items() <= dict(
        spec("--profile", "ecommerce")
    ).items()

    flags = ["--temperature", "0.9", "--top-p", "0.8", "--max-length", "700", "--image-preset"]
    flags += ["art", "--instruction", "Sell", "--profile", "ecommerce"]
    changed = spec(*flags, "--instruction-for", "de=Verkaufe", "--instruction-for", "fr=Vends = 1")
    found = {name: getattr(changed, name) for name in ecommerce}
    assert found == ecommerce | {
        "temperature": 0.9,
        "top_p": 0.8,
        "max_length": 700,
        "image_preset": "art",
        "adaptive_temperature": False,
        "instruction": "Sell",
        "instructions": {"de": "Verkaufe", "fr": "Vends = 1"},
    }
    assert spec("--profile", "ecommerce", "--adaptive-temperature").adaptive_temperature
    assert spec().profile is None


def test_wrong_profiles_and_languages_are_one_sentence(rerank, served, source, store):
    one_sentence(rerank("submit", source, "--profile", "x"), "no profile 'x'", "academic, default")
    ran = rerank("submit", source, "--instruction-for", "Finde")
    one_sentence(ran, "--instruction-for 'Finde' names no language")
    ran = rerank("submit", source, "--instruction-for", "xx=Finde")
    one_sentence(ran, "instructions is wrong: 'xx' is no known language")
    assert rerank("submit", source, "--top-p", "1.5").code == USAGE
    assert store.jobs.unfinished() == []


def test_profiles_are_listed_for_people_and_machines(rerank, monkeypatch, tmp_path):
    file = tmp_path / "profiles.toml"
    file.write_text('[shop]\nbase = "ecommerce"\ninstructions = {de = "Finde [bold] Waren"}')
    monkeypatch.setenv("RERANK_PROFILES", str(file))

    shown, found = rerank("profiles").out, json.loads(rerank("profiles", "--json").out)

    for name in (*PROFILES, "shop", "de: Finde [bold]", "0.3", "4096", "product"):
        assert name in shown
    assert list(found) == [*PROFILES, "shop"]
    assert (found["shop"]["base"], found["shop"]["batch_pairs"]) == ("ecommerce", 12)
    file.write_text("[shop")
    one_sentence(rerank("profiles"), f"the profiles {file} are not TOML")


def test_submit_and_wait_writes_the_output(rerank, served, source, finish_jobs, tmp_path):
    ran = rerank("submit", source, "-o", tmp_path / "out.jsonl", "--wait", "--json")

    assert ran.code == OK
    assert ran.err == ""  # no progress where no terminal is
    found = json.loads(ran.out)
    assert (found["state"], found["progress"]["scored"]) == ("done", 6)
    assert found["output"] == str(tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r0", "r1", "r2"]
    assert (tmp_path / "out.jsonl.manifest.json").exists()


def test_a_catalog_goes_from_a_folder_to_a_folder(rerank, served, finish_jobs, tmp_path):
    images, out = tmp_path / "allowed", tmp_path / "out"
    images.mkdir()
    for name in ("a.png", "b.jpg"):
        (images / name).touch()
    queries = tmp_path / "queries.txt"
    queries.write_text("red\nblue\n")

    ran = rerank(
        *("submit", "--catalog", images, "--queries", queries, "-o", out),
        *("--top-n", 1, "--wait", "--json"),
    )

    assert ran.code == OK
    assert sorted(path.name for path in out.iterdir()) == [
        *("manifest.json", "part-000000000000.jsonl", "ranking.jsonl")
    ]
    job_id = json.loads(ran.out)["id"]
    printed = rerank("results", job_id)
    assert printed.out == (out / "part-000000000000.jsonl").read_text()
    assert rerank("results", job_id, "-o", tmp_path / "again").code == OK
    assert (tmp_path / "again" / "manifest.json").exists()


@pytest.mark.parametrize(
    "arguments", [("input", "--queries", "q"), ("--catalog", "c"), ("--queries", "q"), ()]
)
def test_a_job_is_of_a_file_or_of_a_catalog(rerank, served, arguments):
    ran = rerank("submit", *arguments)

    assert ran.code == USAGE
    one_sentence(ran, "a job is made of a file, or of a catalog and its queries")


def test_bad_lines_end_in_partial_failure(rerank, served, jsonl, finish_jobs, tmp_path):
    source = jsonl(LINES[0], b"no json", {"query": "q", "documents": ["bad"]})

    ran = rerank("submit", source, "-o", tmp_path / "out.jsonl", "--wait")

    assert ran.code == PARTIAL
    assert "2 scored, 2 errors" in ran.out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_watch_writes_the_output_that_submit_named(rerank, served, source, finish_jobs, tmp_path):
    job_id = rerank("submit", source, "-o", tmp_path / "out.jsonl").out.strip()

    ran = rerank("watch", job_id)

    assert ran.code == OK
    assert (tmp_path / "out.jsonl").exists()


def test_results_go_to_stdout_or_a_file(rerank, served, source, control, tmp_path):
    job_id = rerank("submit", source).out.strip()
    one_sentence(rerank("results", job_id), "is not finished", "ask for partial")
    partial = rerank("results", job_id, "--partial")
    assert (partial.code, partial.out) == (OK, "")
    control.hints.feed(job_id)
    run(control, Worker(control))

    lines = rerank("results", job_id).out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r0", "r1", "r2"]
    assert rerank("results", job_id, "-o", tmp_path / "out").code == OK
    assert (tmp_path / "out").read_text().splitlines() == lines
    again = rerank("results", job_id, "-o", tmp_path / "out")
    assert again.code == USAGE
    one_sentence(again, "exists", "--force")
    assert rerank("results", job_id, "-o", tmp_path / "out", "--force").code == OK


def test_the_verbs_on_a_job(rerank, served, source, finish_jobs, store):
    job_id = rerank("submit", source).out.strip()
    wait_until(lambda: store.jobs.get(job_id).finished)
    for verb in ("cancel", "pause", "resume", "retry"):
        ran = rerank(verb, job_id)
        assert ran.code == USAGE
        one_sentence(ran, f"job {job_id}")
    shown = rerank("status", job_id)
    assert "done" in shown.out
    assert json.loads(rerank("status", job_id, "--json").out)["state"] == "done"
    assert json.loads(rerank("jobs", "--json").out)[0]["id"] == job_id
    assert job_id in rerank("jobs").out


def test_pause_resume_and_cancel_say_what_comes_next(rerank, served, source):
    job_id = rerank("submit", source).out.strip()
    assert rerank("pause", job_id).err == f"paused; go on with:  rerank resume {job_id}\n"
    assert rerank("resume", job_id).err == f"resumed:  rerank watch {job_id}\n"
    assert rerank("cancel", job_id).code == OK


def test_workers_are_listed(rerank, served):
    assert json.loads(rerank("workers", "--json").out)[0]["id"] == "w1"
    assert "w1" in rerank("workers").out


def test_an_empty_fleet_says_how_to_begin(rerank):
    assert rerank("workers").err.startswith("no workers:  rerank worker --model")
    assert rerank("jobs").err.startswith("no jobs yet:  rerank submit")
    assert json.loads(rerank("jobs", "--json").out) == []


# ---- what goes wrong ----------------------------------------------------------------------------


def test_what_goes_wrong_is_one_sentence(rerank, served, source, tmp_path, jsonl):
    (tmp_path / "taken").write_text("mine")
    for arguments, says in {
        ("submit", tmp_path / "none"): "does not exist: check the path",
        ("submit", jsonl(b"a,b", name="csv")): "is not JSON Lines: write one JSON object a line",
        ("submit", source, "--model", "other"): "never served the model 'other'",
        ("submit", source, "-o", tmp_path / "taken"): "exists: use --force",
        ("submit", source, "-o", "s3://b/k"): "RERANK_ALLOWED_BUCKETS=b",
        ("submit", "file:///etc/passwd"): "RERANK_ALLOWED_ROOTS=/etc",
        ("submit", source, "--max-length", 5): "max_length is wrong",
        ("submit", source, "--image-preset", "huge"): "expected one of general, product, art",
        ("submit", source, "--max-crop", 1.5): "max_crop is wrong",
        ("status", "nope"): "there is no job nope: `rerank jobs` lists them",
        ("watch", "nope"): "there is no job nope",
        ("results", "nope"): "there is no job nope",
    }.items():
        ran = rerank(*arguments)
        assert ran.code == USAGE, arguments
        one_sentence(ran, says)
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_one_sentence(
    rerank, served, source, control, tmp_path
):
    job_id = rerank("submit", source).out.strip()
    control.hints.feed(job_id)
    run(control, Worker(control))
    (tmp_path / "file").touch()

    ran = rerank("results", job_id, "-o", tmp_path / "file" / "out")

    assert ran.code in (FAILURE, USAGE)
    one_sentence(ran, str(tmp_path / "file"))


def test_a_redis_that_does_not_answer_is_one_sentence(rerank, source, monkeypatch):
    monkeypatch.setenv("RERANK_REDIS_URL", f"redis://:pw@127.0.0.1:{free_port()}/0")
    ran = rerank("submit", source)
    assert ran.code == FAILURE
    one_sentence(ran, "does not answer", "RERANK_REDIS_URL")
    assert "pw" not in ran.err.replace("rerank up", "")


def test_no_redis_at_all_is_one_sentence(rerank, source, monkeypatch, tmp_path):
    monkeypatch.delenv("RERANK_REDIS_URL")
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path / "none"))
    ran = rerank("submit", source)
    assert ran.code == USAGE
    one_sentence(ran, "no Redis is known", "rerank up")


@pytest.mark.parametrize(
    "command", [("jobs",), ("up",), ("coordinator",), ("worker", "--model", "m")]
)
def test_a_wrong_setting_is_one_sentence(rerank, monkeypatch, command):
    monkeypatch.setenv("RERANK_LEASE_S", "soon")
    ran = rerank(*command)
    assert ran.code == USAGE
    one_sentence(ran, "RERANK_LEASE_S is wrong")


def test_a_redis_that_goes_away_meanwhile_is_one_sentence(rerank, monkeypatch):
    import redis

    def away(*_, **__):
        raise redis.ConnectionError("Connection refused")

    monkeypatch.setattr(Client, "workers", away)
    ran = rerank("workers")
    assert ran.code == FAILURE
    one_sentence(ran, "Redis")


def test_ctrl_c_detaches_and_says_how_to_come_back(settings, served, source, store):
    """Given the real command in a process of its own."""
    environment = {**os.environ, **settings.environment(), "PYTHONUNBUFFERED": "1"}
    command = [
        sys.executable,
        "-P",
        "-m",
        "rerankfleet.shared.cli",
        "submit",
        str(source),
        "--wait",
    ]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    (job_id,) = wait_until(store.jobs.unfinished, 20)
    channel = store.keys.done_channel(job_id)
    wait_until(lambda: store.client.pubsub_numsub(channel)[0][1], 20)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert process.returncode == INTERRUPTED
    assert out == ""
    assert f"The job goes on. Come back with:  rerank watch {job_id}" in err
    assert "Traceback" not in err
    assert store.jobs.unfinished() == [job_id]


# ---- words for numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0, "0s"), (59.4, "59s"), (61, "1m 01s"), (3600, "1h 00m"), (90061, "1d 1h")],
)
def test_durations_read_well(seconds, words):
    assert tables.duration(seconds) == words


def test_progress_counts_every_kind_of_outcome():
    assert Progress(scored=1, errors=2, rejected=3, cancelled=4).done == 10


def test_errors_know_what_they_mean():
    def tree(kind: type[RerankError]) -> list[type[RerankError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in tree(sub))]

    drawn = sys.modules["rerankfleet.shared.errors"].__doc__
    for kind in tree(RerankError):
        # the gateway has a few of its own, which no other room meets
        assert kind.__name__ in drawn or kind.__module__.startswith("rerankfleet.producer.gateway.")
        assert kind.__doc__
        assert 400 <= kind.http_status < 600
    assert str(RerankError("what", hint="do")) == "what: do"
    assert MODEL


@pytest.mark.parametrize(
    ("host", "state", "code"),
    [
        (socket.gethostname(), "ready", OK),
        (socket.gethostname(), "draining", OK),
        (socket.gethostname(), "loading", FAILURE),
        ("elsewhere", "ready", FAILURE),
    ],
)
def test_a_worker_is_well_when_its_own_host_has_loaded_the_model(rerank, fleet, host, state, code):
    # given a fleet of one worker
    fleet.beat(worker_row(host=host, state=state))
    # when a container on this host asks
    assert rerank("health", "worker").code == code


def test_a_coordinator_is_well_when_it_gave_a_sign_of_life(rerank, store):
    # given a coordinator that never ran
    assert rerank("health", "coordinator").code == FAILURE
    # when it ticks
    store.coordination.pulse()
    # then it is well
    assert rerank("health", "coordinator").code == OK


# ---- statistics ---------------------------------------------------------------------------------


def test_stats_are_a_table_for_people_and_json_for_machines(rerank, served, source, control, store):
    job_id = rerank("submit", source).out.strip()
    control.hints.feed(job_id)
    run(control, Worker(control))

    table, found = rerank("stats"), json.loads(rerank("stats", "--json").out)
    of_job = json.loads(rerank("stats", "--job", job_id, "--json").out)

    assert table.code == OK
    assert MODEL in table.out
    rows = {(row["kind"], row["name"]): row for row in found["statistics"]}
    assert rows["model", MODEL]["requests"] == 3
    assert rows["model", MODEL]["pairs"] == of_job["job"]["scores"]["count"] == 6
    assert "mean" in rerank("status", job_id).out


def test_a_profiles_temperature_can_be_forgotten(rerank, store, client):
    change = '{"at_s":1,"job":"j","mean":0.5,"base":1,"before":1,"to":0.9}'
    client.lpush(store.keys.profile("shop"), change)

    assert "0.9" in rerank("stats", "--profile", "shop").out
    assert rerank("stats", "--profile", "shop", "--forget-temperature").code == OK

    assert store.statistics.temperature_changes("shop") == []
    assert "add --profile" in rerank("stats", "--forget-temperature").err
    assert rerank("stats", "--profile", "shop", "--job", "j").code == USAGE
