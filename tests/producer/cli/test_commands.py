"""The command `rerank` as a whole: help, exit codes, and one sentence for what goes wrong."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from click.testing import CliRunner

from rerankfleet.producer.client import Client
from rerankfleet.shared import cli
from rerankfleet.shared.errors import RerankError
from tests.producer.cli.conftest import (
    FAILURE,
    INTERRUPTED,
    OK,
    USAGE,
    one_sentence,
)
from tests.support.fleet import MODEL
from tests.support.server import free_port


def commands() -> dict[str, typer.core.TyperCommand]:
    return dict(typer.main.get_command(cli.build()).commands)


def test_both_sides_bring_their_commands():
    assert set(commands()) == {
        *("up", "demo", "coordinator", "worker", "score", "submit", "status", "watch", "results"),
        *("cancel", "pause", "resume", "retry", "jobs", "workers", "profiles", "stats", "health"),
        *("doctor", "study", "chaos"),
        *("query", "top", "gateway", "key"),
    }


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_explains_itself_with_an_example(name):
    shown = CliRunner().invoke(typer.main.get_command(cli.build()), [name, "--help"])

    assert shown.exit_code == OK
    assert "Example:" in shown.output
    assert f"rerank {name}" in shown.output
    for parameter in commands()[name].params:
        assert parameter.name == "help" or parameter.help, parameter.name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("up", ("gateway_port", "gateway_host", "state_dir", "redis_url", "api_keys")),
        ("gateway", ("gateway_port", "gateway_host", "redis_url")),
        ("coordinator", ("redis_url", "storage")),
        ("submit", ("redis_url", "state_dir", "storage", "allowed_roots", "profiles")),
        ("watch", ("redis_url", "state_dir")),
        ("query", ("redis_url", "interactive_deadline_s")),
        ("health", ("gateway_port",)),
        ("profiles", ("profiles",)),
        ("worker", ("redis_url", "device", "dtype")),
        ("score", ("device", "allowed_hosts")),
    ],
)
def test_help_names_the_settings_that_govern_a_command(name, settings):
    shown = CliRunner().invoke(typer.main.get_command(cli.build()), [name, "--help"]).output

    for setting in settings:
        assert f"RERANK_{setting.upper()}:" in shown


@pytest.mark.parametrize("name", sorted(set(commands()) - {"study"}))
def test_help_ends_with_the_exit_codes(name):
    shown = CliRunner().invoke(typer.main.get_command(cli.build()), [name, "--help"]).output

    words = " ".join(shown.split())
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage" in words
    scores = name in ("submit", "watch", "score", "query")
    assert ("3 some items have no score" in words) == scores


def test_help_of_up_says_where_the_page_is():
    shown = CliRunner().invoke(typer.main.get_command(cli.build()), ["up", "--help"]).output

    assert "The page and the HTTP routes are at http://127.0.0.1:8080" in " ".join(shown.split())


def test_without_arguments_there_is_help(rerank):
    ran = rerank()
    assert ran.code in (OK, USAGE)
    assert "submit" in ran.out + ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit", "x", "--colour"], "No such option: --colour"),
        (["submit", "x", "--top-n", "many"], "'--top-n': Input should be a valid integer"),
        (["submit", "x", "--priority", "now"], "'now' is not one of 'interactive', 'normal'"),
        (["submit", "x", "y"], "unexpected extra argument"),
        (["status"], "Missing argument 'job': see `rerank status --help`"),
        (["jobs", "-n", "0"], "greater than or equal to 1: see `rerank jobs --help`"),
        (["nonsense"], "No such command 'nonsense': see `rerank --help`"),
        (["study", "nonsense"], "see `rerank study --help`"),
    ],
)
def test_a_wrong_option_is_one_sentence(rerank, arguments, says):
    ran = rerank(*arguments)

    assert ran.code == USAGE
    one_sentence(ran, says)


COMMAND = (sys.executable, "-P", "-m", "rerankfleet.shared.cli")


@pytest.mark.parametrize("arguments", [("profiles",), ("profiles", "--json"), ("--help",)])
def test_a_full_disk_behind_standard_output_is_one_sentence(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert done.returncode == FAILURE
    assert done.stderr == (
        "rerank: the output cannot be written (No space left on device): write it elsewhere\n"
    )


def test_a_reader_that_leaves_ends_the_command_without_a_word():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            [*COMMAND, "profiles", "--json"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stderr) == (FAILURE, "")


def test_closed_streams_are_empty_ones():
    shown = subprocess.run(
        ["sh", "-c", f"{shlex.join(COMMAND)} profiles <&- >&- 2>&-"], check=False
    )

    assert shown.returncode == OK


def test_ctrl_c_while_the_command_still_loads_leaves_no_traceback(monkeypatch, capsys):
    def pressed() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build", pressed)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_what_nobody_expected_keeps_its_traceback(monkeypatch):
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "build", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_what_goes_wrong_is_one_sentence(rerank, served, source, tmp_path, jsonl):
    (tmp_path / "taken").write_text("mine")
    for arguments, says in {
        ("submit", tmp_path / "none"): "does not exist: check the path",
        ("submit", jsonl(b"a,b", name="csv")): "is not JSON Lines: write one JSON object a line",
        ("submit", source, "--model", "other"): "never served the model 'other'",
        ("submit", source, "-o", tmp_path / "taken"): "exists: set `force` to replace it (--force)",
        ("submit", source, "-o", "s3://b/k"): "RERANK_ALLOWED_BUCKETS=b",
        ("submit", "file:///etc/passwd"): "RERANK_ALLOWED_ROOTS=/etc",
        ("submit", source, "--max-length", 5): "max_length is wrong",
        ("submit", source, "--image-preset", "huge"): "expected one of general, product, art",
        ("submit", source, "--max-crop", 1.5): "max_crop is wrong",
        ("status", "nope"): "there is no job nope: list the jobs (rerank jobs)",
        ("watch", "nope"): "there is no job nope",
        ("results", "nope"): "there is no job nope",
    }.items():
        ran = rerank(*arguments)
        assert ran.code == USAGE, arguments
        one_sentence(ran, says)
    assert (tmp_path / "taken").read_text() == "mine"


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


def test_errors_know_what_they_mean():
    def tree(kind: type[RerankError]) -> list[type[RerankError]]:
        return [kind, *(each for sub in kind.__subclasses__() for each in tree(sub))]

    drawn = sys.modules["rerankfleet.shared.errors"].__doc__
    for kind in tree(RerankError):
        # the gateway has a few of its own, which no other room meets
        assert kind.__name__ in drawn or kind.__module__.startswith("rerankfleet.producer.gateway.")
        assert kind.__doc__
        assert 400 <= kind.http_status < 600
    assert str(RerankError("what", hint="do")) == "what: do"
    assert MODEL
