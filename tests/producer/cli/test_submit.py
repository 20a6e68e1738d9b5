"""`rerank submit`: its options reach the job; with --wait the output is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.profiles import PROFILES
from tests.producer.cli.conftest import (
    FAILURE,
    INTERRUPTED,
    LINES,
    OK,
    PARTIAL,
    USAGE,
    Ran,
    one_sentence,
)
from tests.support.wait import patient, wait_until


def test_submit_prints_the_id_on_stdout_and_the_rest_on_stderr(rerank, served, source, store):
    ran = rerank("submit", source)

    (job_id,) = store.jobs.unfinished()
    said = f"its output stays in the storage: `rerank results {job_id}` prints it"
    assert ran == Ran(OK, f"{job_id}\n", f"watch it:  rerank watch {job_id}\n{said}\n")
    again = rerank("submit", source, "--json")
    assert set(json.loads(again.out)) == {"id"}
    assert again.err == ""


def test_machines_learn_too_that_an_output_is_not_written_yet(rerank, served, source, tmp_path):
    ran = rerank("submit", source, "-o", tmp_path / "out.jsonl", "--json")

    assert set(json.loads(ran.out)) == {"id"}
    assert "out.jsonl is not written until you ask for it" in ran.err


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
    options = {name: getattr(changed, name) for name in ecommerce}
    assert options == ecommerce | {
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


def test_submit_and_wait_writes_the_output(rerank, served, source, finish_jobs, tmp_path):
    ran = rerank("submit", source, "-o", tmp_path / "out.jsonl", "--wait", "--json")

    assert ran.code == OK
    assert "done: 6/6 pairs" in ran.err.splitlines()[-1]  # no terminal: a line at each change
    status = json.loads(ran.out)
    assert (status["state"], status["progress"]["scored"]) == ("done", 6)
    assert status["output"] == str(tmp_path / "out.jsonl")
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


def test_what_a_folder_passes_over_is_told_once(rerank, served, tmp_path):
    folder, queries = tmp_path / "allowed" / "shop", tmp_path / "queries.txt"
    folder.mkdir(parents=True)
    for name in ("a.jpg", "b.psd", "c.psd", "README"):
        (folder / name).write_bytes(b"x")
    queries.write_text("red")
    said = "3 passed over: 2 .psd, 1 without suffix"

    ran = rerank("submit", "--catalog", folder, "--queries", queries)
    assert ran.err.splitlines()[0] == said
    machine = rerank("submit", "--catalog", folder, "--queries", queries, "--json")
    assert json.loads(machine.out)["passed_over"] == said
    assert machine.err == ""
    status = rerank("status", ran.out.strip(), "--json")
    assert json.loads(status.out)["passed_over"] == said
    for name in ("b.psd", "c.psd", "README"):
        (folder / name).unlink()
    machine = rerank("submit", "--catalog", folder, "--queries", queries, "--json")
    assert set(json.loads(machine.out)) == {"id"}


@pytest.mark.parametrize("name", ["a#b?c.jsonl", "100%41.jsonl", "a\nb;.jsonl", "\udcff.jsonl"])
def test_inputs_and_outputs_have_any_name(rerank, served, finish_jobs, source, tmp_path, name):
    folder = tmp_path / "allowed"
    folder.mkdir()
    (folder / name).write_bytes(source.read_bytes())

    for written in (folder / name, file_uri(folder / name).replace("file://", "FILE://")):
        ran = rerank("submit", written, "-o", tmp_path / "out" / name, "--wait", "--force")
        assert ran.code == OK, ran.err
        assert len((tmp_path / "out" / name).read_bytes().splitlines()) == len(LINES)
    job_id = rerank("submit", source, "-o", file_uri(folder / "out" / name)).out.strip()
    assert rerank("watch", job_id).code == OK
    assert len((folder / "out" / name).read_bytes().splitlines()) == len(LINES)
    refused = rerank("submit", source, "-o", tmp_path / "out" / name)
    one_sentence(refused, "exists: set `force` to replace it (--force)")


@pytest.mark.parametrize("place", ["input", "output", "catalog", "queries"])
def test_other_addresses_are_refused_without_their_password(rerank, served, source, place):
    address = "https://user:very-secret@host/a.jsonl?token=very-secret"
    arguments = {
        "input": [address],
        "output": [source, "-o", address],
        "catalog": ["--catalog", address, "--queries", source],
        "queries": ["--catalog", source.parent, "--queries", address],
    }

    ran = rerank("submit", *arguments[place])

    one_sentence(ran, "https://host/a.jsonl is neither a path nor s3:// or file://: download it")
    assert "secret" not in ran.err


def test_bad_lines_end_in_partial_failure(rerank, served, jsonl, finish_jobs, tmp_path):
    source = jsonl(LINES[0], b"no json", {"query": "q", "documents": ["bad"]})

    ran = rerank("submit", source, "-o", tmp_path / "out.jsonl", "--wait")

    assert ran.code == PARTIAL
    assert "2 scored, 2 errors" in ran.out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_a_job_of_which_nothing_is_scored_is_not_done_like_any_other(
    rerank, served, jsonl, finish_jobs
):
    """Given lines that cannot be read and documents that all fail."""
    source = jsonl({"query": "q", "documents": ["bad", "bad", "bad"]}, b"no json", {"query": "q"})

    ran = rerank("submit", source, "--wait")

    assert ran.code == FAILURE
    words = " ".join(ran.out.split())
    assert "state failed nothing could be scored, most often because of failed: 3 of 5" in words
    assert "pairs 3 of 3" in words
    assert "5 errors (2 are lines that could not be read)" in words
    (job,) = json.loads(rerank("jobs", "--json").out)
    assert (job["state"], job["nothing_scored"], job["progress"]["bad_lines"]) == ("done", True, 2)
    shown = rerank("jobs").out
    assert "failed" in shown
    assert "BAD LINES" in shown
    assert "failed" in rerank("top", "--once").out


def test_an_output_that_is_not_waited_for_says_who_writes_it(
    rerank, served, source, store, tmp_path
):
    there = tmp_path / "allowed" / "out.jsonl"
    there.parent.mkdir()

    local = rerank("submit", source, "-o", tmp_path / "out put.jsonl")
    other = rerank("submit", source, "-o", f"file://{there}")

    job_id = local.out.strip()
    _, who = local.err.splitlines()
    assert who.startswith(f"{tmp_path}/out put.jsonl is not written until you ask for it")
    assert f"`rerank watch {job_id}` waits" in who
    assert f"`rerank results {job_id} -o '{tmp_path}/out put.jsonl'`" in who
    assert other.err.splitlines()[1] == (
        f"the coordinator writes file://{there}, on its own machine, when the job is done"
    )


def test_the_output_of_a_key_that_was_submitted_before_is_fetched_by_hand(
    rerank, served, source, tmp_path
):
    first = rerank("submit", source, "-o", tmp_path / "one", "--key", "k")
    again = rerank("submit", source, "-o", tmp_path / "two", "--key", "k")

    assert again.out == first.out
    assert f"rerank results {again.out.strip()} -o {tmp_path}/two" in again.err
    assert "watch" not in again.err.splitlines()[1]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    rerank, served, source, store, tmp_path
):
    """Given names that no file can have, and names of the input itself."""
    (tmp_path / "file").touch()
    link = tmp_path / "link.jsonl"
    link.symlink_to(source)
    for output, says in {
        "": "the output has no name",
        tmp_path / "file" / "out": "cannot be written (Not a directory)",
        "/proc/out": "the output /proc/out cannot be written",
        tmp_path / ("x" * 300): "cannot be written (File name too long)",
        tmp_path: "is a folder: name a file in it",
        source: f"would replace the input {source}: name another file",
        f"file://{source}": "would replace the input",
        link: "would replace the input",
    }.items():
        ran = rerank("submit", source, "-o", output, "--force")
        assert ran.code == USAGE, output
        one_sentence(ran, says)
    assert store.jobs.unfinished() == []
    assert source.read_bytes()


def test_an_output_that_fails_at_the_end_says_how_to_get_it(
    rerank, served, source, finish_jobs, store
):
    ran = rerank("submit", source, "-o", "/dev/full", "--wait")

    assert ran.code == USAGE
    (job_id,) = store.jobs.recent()
    last = ran.err.splitlines()[-1]
    assert last.startswith("rerank: the output /dev/full cannot be written (No space left")
    assert last.endswith(f"get its output with `rerank results {job_id} -o FILE`")


def test_a_retried_job_is_followed_too(rerank, served, jsonl, finish_jobs):
    """Given a job that is watched while it is scored again."""
    job_id = rerank("submit", jsonl(LINES[0], b"no json")).out.strip()
    assert rerank("watch", job_id).code == PARTIAL
    rerank("retry", job_id)

    ran = rerank("watch", job_id)

    assert ran.code == PARTIAL
    assert f"job {job_id} done: 2/2 pairs" in ran.err


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
    out, err = process.communicate(timeout=patient(20))

    assert process.returncode == INTERRUPTED
    assert out == ""
    assert f"The job goes on. Come back with:  rerank watch {job_id}" in err
    assert "Traceback" not in err
    assert store.jobs.unfinished() == [job_id]
