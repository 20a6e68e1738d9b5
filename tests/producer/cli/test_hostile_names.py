"""What comes from elsewhere moves no cursor and changes no colour, in any command.

Given jobs, workers and errors with markup, escape sequences, marks of direction and breaks of lines
in every name: what is shown is one clean line each; JSON is exact.
"""

from __future__ import annotations

import io
import json

import pytest
import structlog
from rich.console import Console

from rerankfleet.producer.terminal import drawing, query, stats, tables
from rerankfleet.producer.terminal.following import ProgressLines
from rerankfleet.producer.terminal.view import View
from rerankfleet.shared.advice import Advice
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.job_status import JobStatus, Progress
from rerankfleet.shared.profiles import Profile
from rerankfleet.shared.shown import clean, clean_lines, clean_log, one_line
from rerankfleet.shared.statistics import TemperatureChange
from rerankfleet.workers import cli as worker_cli
from rerankfleet.workers.diagnostics.checks import Check
from tests.support.fleet import MODEL, worker_row

HOSTILE = [
    "[/oops]",
    "[bold red]shop[/bold red][link=http://x]y",
    "\x1b[2J\x1b]0;owned\x07\x1b[31mred",
    "\x9b31mred\x9d0;owned\x9c",
    "safe\u202egpj.exe\u2066\u200f",
    "one\nrerank: fake line\r\x0b\x85\u2028\u2029two",
    "bytes \udcff and \x00 and \x7f and \ufeff",
    "[unclosed",
    "back\\[slash\\",
]


def assert_clean(text: str) -> None:
    """Check that nothing but breaks of lines is there that is not printed."""
    assert all(c.isprintable() or c == "\n" for c in text), ascii(text)


def drawn(what: object, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(what)
    assert_clean(out.getvalue())
    return out.getvalue()


def job(name: str, **fields: object) -> JobStatus:
    usual = {
        "id": name,
        "state": "paused",
        "reason": name,
        "model": name,
        "priority": "normal",
        "progress": Progress(total=10),
        "name": name,
        "output": name,
        "created_s": 1.0,
    }
    return JobStatus.model_validate(usual | fields)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_every_table_shows_foreign_text_as_it_reads(name):
    name = name.encode(errors="replace").decode()  # what travels as JSON is UTF-8
    worker = worker_row(name, name, host=name, device=name, batch_reason=name, batch_tokens=1)
    profile = Profile(instruction=name, instructions={"fr": name})
    change = TemperatureChange(job=name, mean=0.5, before=1, to=2, at_s=0, base=1)
    advice = Advice(symptom=name, evidence=name, remedy=name)
    shows = [
        tables.job_panel(job(name)),
        tables.jobs_table([job(name)]),
        tables.workers_table([worker]),
        tables.profiles_table({name: profile}),
        tables.ranked_table(name, {"results": [{"relevance_score": 0.5, "index": 0}]}, [name]),
        stats.render(
            stats.Report(
                hours=1,
                statistics=[],
                workers=[worker],
                job=job(name),
                temperatures=[change],
                advice=[advice],
            )
        ),
        drawing.frame(View(at_s=1, workers=(worker,), jobs=(job(name),)), width=200, problem=name),
        query.ranking(
            {
                "results": [{"index": 0, "relevance_score": 0.5, "margin": 0.0}],
                "errors": [{"index": 1, "code": "failed", "message": name, "hint": name}],
                "provenance": {"model": name, "dtype": name, "device": name},
            },
            [query.Candidate({}, one_line(name)), query.Candidate({}, one_line(name), name)],
            files=[name],
        ),
    ]
    text = one_line(name)
    for show in shows:
        # what was written as markup is there, letter by letter
        assert "".join(text.split()) in "".join(drawn(show).split())


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_lines_for_people_are_one_line(name):
    written: list[str] = []
    ProgressLines(lambda line: written.append(clean(line)))(job(name))
    (line,) = written
    assert_clean(line)
    assert "\n" not in line


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_the_commands_survive_a_job_of_any_name_and_json_has_it_exactly(
    rerank, fleet, store, name, monkeypatch
):
    fleet.beat(worker_row("w1", device=name.encode(errors="replace").decode()))
    name = name.encode(errors="replace").decode()  # a record in Redis is UTF-8
    spec = make_spec(model=MODEL, input=InputRef(uri=name, size=1, tag=""), name=name)
    store.jobs.create("a", spec, "digest")
    store.jobs.pause(store.jobs.get("a"), name)
    for command in (["jobs"], ["status", "a"], ["workers"], ["top", "--once"], ["stats"]):
        ran = rerank(*command)
        assert ran.code == 0
        assert_clean(ran.out + ran.err)
    assert json.loads(rerank("jobs", "--json").out)[0]["name"] == name
    assert json.loads(rerank("status", "a", "--json").out)["reason"] == name
    assert json.loads(rerank("workers", "--json").out)[0]["device"] == name
    store.jobs.cancel(store.jobs.get("a"))


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize(
    "command",
    [
        ["status", "{}"],
        ["watch", "{}"],
        ["results", "{}"],
        ["cancel", "{}"],
        ["retry", "{}"],
        ["stats", "--profile", "{}"],
        ["stats", "--job", "{}"],
        ["submit", "{}"],
        ["submit", "--catalog", "{}", "--queries", "{}"],
        ["submit", "in.jsonl", "--model", "{}"],
        ["query", "{}", "--doc", "{}", "--model", "{}"],
        ["query", "{}", "--file", "{}"],
        ["query", "{}", "--image", "{}"],
        ["score", "{}", "-o", "{}", "--model", "{}"],
        ["no such {}"],
        ["jobs", "--{}"],
        ["jobs", "-n", "{}"],
    ],
    ids=" ".join,
)
def test_errors_about_foreign_text_are_clean(rerank, fleet, name, command):
    fleet.beat(worker_row())
    if "\x00" in name:
        name = name.replace("\x00", "")  # no argument of a process has one
    ran = rerank(*(part.format(name) for part in command))
    assert_clean(ran.out + ran.err)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_the_findings_of_the_doctor_are_clean(name, capsys, monkeypatch):
    check = Check(name=name, verdict="broken", fact=name, remedy=name)
    worker_cli._print_checks([check])
    assert_clean(capsys.readouterr().out)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_line_of_the_log_is_one_clean_line(name):
    out = io.StringIO()
    render = structlog.dev.ConsoleRenderer(colors=False)
    event = {"event": name, "job": name, "error": name, "list": [name], "n": 1, "e": Error(name)}
    line = render(None, "info", clean_log(None, "info", event))
    out.write(line)
    assert_clean(line)
    assert "\n" not in line


class Error(Exception):
    """What a log may hold as it is."""


def test_a_traceback_keeps_its_lines():
    text = 'Traceback\n  File "x"\nError: \x1b[31mred\x85'
    assert clean_lines(text) == 'Traceback\n  File "x"\nError:  [31mred '
    event = clean_log(None, "error", {"event": "e", "exception": text})
    assert event["exception"].count("\n") == 2
