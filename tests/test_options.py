"""Every option of scoring has one declaration, and one meaning wherever it is given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.errors import FIELDS_OF_OPTIONS, as_param
from rerankfleet.shared import cli
from rerankfleet.shared.command_options import flag_of
from rerankfleet.shared.content.option_fields import OptionField, bounds_of, option_fields
from rerankfleet.shared.content.options import (
    DEFAULT_INSTRUCTION,
    OF_JOBS,
    PLAIN_OPTIONS,
    ScoringOptions,
)
from rerankfleet.shared.errors import InvalidOption, RerankError
from rerankfleet.shared.formats.lines import parse_line
from rerankfleet.shared.job_spec import InputRef, JobSpec, make_spec
from rerankfleet.shared.profiles import ProfileOptions, load_profiles
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.reranker import Reranker
from tests.support.fleet import MODEL, Worker, worker_row
from tests.support.gateway import running_gateway, working_fleet
from tests.support.wait import patient

FIELDS = {field.name: field for field in option_fields()}
COMMANDS = {
    "submit": set(FIELDS),
    "query": set(FIELDS) - OF_JOBS,
    "score": set(FIELDS) - {"adaptive_temperature", "max_error_rate"},
}
"""Which options a command takes: of a job, of a request, of a file without a queue."""
OF_A_LINE = {"instruction", "top_n"}
"""Which options a line of input may have."""
BODIES = {
    "RerankBody": set(FIELDS) - OF_JOBS,
    "ScoreBody": set(FIELDS) - OF_JOBS - {"top_n"},  # all pairs have a score
    "JobBody": set(FIELDS),
}
REQUEST = {"query": "q", "documents": ["a", "b", "c"]}


@pytest.fixture
def rerank(settings, monkeypatch) -> Callable[..., Any]:
    """`rerank("submit", path)`: the command in this process; an error is raised as it is."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "configure_logs", lambda: None)

    def command(*arguments: object) -> Any:
        main = typer.main.get_command(cli.build())
        return main([str(argument) for argument in arguments], standalone_mode=False)

    return command


@pytest.fixture
def api(settings, fleet) -> Client:
    fleet.beat(worker_row())
    return Client(settings)


@pytest.fixture
def working(control) -> Iterator[Worker]:
    with working_fleet(control) as worker:
        yield worker


@pytest.fixture
def http(settings) -> Iterator[httpx.Client]:
    with running_gateway(settings) as client:
        yield client


# ---- one declaration ----------------------------------------------------------------------------


def parameters(command: str) -> dict[str, Any]:
    declared = typer.main.get_command(cli.build()).commands[command].params
    return {parameter.name: parameter for parameter in declared}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_options_that_it_can_use(command):
    assert set(parameters(command)) & set(FIELDS) == COMMANDS[command]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_a_command_shows_what_is_declared(field, command):
    if field.name not in COMMANDS[command]:
        return
    shown = parameters(command)[field.name]

    assert field.description in shown.help
    assert field.bounds in shown.help
    for choice in field.choices:
        assert choice in f"{shown.help} {shown.metavar}"
    assert shown.show_default == (field.shown_default or False)
    assert shown.default is None  # so that a profile has its say
    assert "/".join([*shown.opts, *shown.secondary_opts]) == flag_of(field)


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    from rerankfleet.producer.gateway.formats.native import RerankBody
    from rerankfleet.producer.gateway.formats.vllm import ScoreBody
    from rerankfleet.producer.gateway.jobs import JobBody

    return {kind.__name__: kind.model_json_schema() for kind in (RerankBody, ScoreBody, JobBody)}


def param_of(name: str) -> str:
    """Where an option is in a body: `image.preset`."""
    return as_param(FIELDS_OF_OPTIONS.get(name, (name,)))


def in_body(schema: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The schema of an option in that of a body."""
    part, _, inner = param_of(name).rpartition(".")
    objects = {"image": "ImageOptions", "video": "VideoOptions"}
    properties = (schema["$defs"][objects[part]] if part else schema)["properties"]
    return properties.get(inner)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_the_openapi_document_says_what_is_declared(field, body, schemas):
    shown = in_body(schemas[body], field.name)

    assert (shown is not None) == (field.name in BODIES[body])
    if shown is not None:
        assert shown["description"] == field.description
        assert shown.get("default", {}) == field.default
        kinds = [kind for kind in shown["anyOf"] if kind.get("type") == field.kind]
        assert [bounds_of(kind) for kind in kinds] == [bounds_of(field.schema)]
        assert kinds[0].get("enum", []) == list(field.choices)
        assert {"type": "null"} in shown["anyOf"]


@pytest.mark.parametrize("name", FIELDS)
def test_a_job_and_a_profile_have_the_field_itself(name):
    for kind in (JobSpec, ProfileOptions):
        if name in kind.model_fields:
            assert repr(kind.model_fields[name]) == repr(ScoringOptions.model_fields[name])


def test_the_manifest_of_a_job_records_every_option():
    spec = make_spec(model="m", input=InputRef(uri="", size=0, tag=""))

    recorded = spec.scoring_options
    assert set(recorded) == set(FIELDS) - {"adaptive_temperature"} | {"profile"}
    assert {name: getattr(spec, name) for name in FIELDS} == dict(PLAIN_OPTIONS)


CHANGED = """
import json, sys, importlib.util

name = "rerankfleet.shared.content.options"
spec = importlib.util.find_spec(name)
source = open(spec.origin).read()
old = "    temperature: float = Field(\\n        default=1.0,\\n        ge=0.1,\\n        le=2,\\n"
new = old.replace("1.0", "1.5").replace("le=2", "le=7").replace("temperature", "sharpness")
assert old in source
source = source.replace(old, new + '        description="how sharp",\\n    )\\n' + old, 1)
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
exec(compile(source, spec.origin, "exec"), module.__dict__)

import typer
from rerankfleet.producer.client import ScoringOptions
from rerankfleet.producer.gateway.formats.native import RerankBody
from rerankfleet.producer.gateway.jobs import JobBody
from rerankfleet.shared.cli import build
from rerankfleet.shared.errors import InvalidOption
from rerankfleet.shared.job_spec import JobSpec
from rerankfleet.shared.profiles import PROFILES
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.reranker import Reranker
from tools.reference import options_page

shown = {}
for command in ("submit", "query", "score"):
    params = typer.main.get_command(build()).commands[command].params
    (shown[command],) = [f"{p.help} {p.show_default}" for p in params if p.name == "sharpness"]
for kind in (RerankBody, JobBody, JobSpec, ScoringOptions):
    shown[kind.__name__] = json.dumps(kind.model_json_schema()["properties"]["sharpness"])
shown["profiles"] = f"how sharp 7 {PROFILES['default'].sharpness}"
(shown["docs"],) = [line for line in options_page().splitlines() if "sharpness" in line]
try:
    Reranker("pocket-text", sharpness=9)
except InvalidOption as error:
    shown["Reranker"] = f"how sharp 1.5 {error}"
print(json.dumps(shown))
"""


def test_an_option_that_is_declared_shows_everywhere():
    # given one more field, declared in `ScoringOptions` and nowhere else
    ran = subprocess.run(
        [sys.executable, "-c", CHANGED],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=patient(120),
    )
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(ran.stdout)
    # then each entrance has it, with its description, default and bounds
    assert len(shown) == 10
    for entrance, text in shown.items():
        assert "how sharp" in text, entrance
        assert "1.5" in text, entrance
        assert "7" in text, entrance


# ---- one meaning --------------------------------------------------------------------------------


def wrong(field: OptionField) -> Any:
    """A value beyond what is declared; None where every value is allowed."""
    schema = field.schema
    if field.choices:
        return "nonsense"
    if field.kind in ("integer", "number"):
        most = schema.get("maximum")
        return schema.get("exclusiveMinimum", 0) if most is None else most + 1
    return {
        "string": "x" * (schema.get("maxLength", 0) + 1),
        "object": {"xx": "…"},
        "array": [0, 256, 0],
        "boolean": None,
    }[field.kind]


WRONG = {name: value for name, field in FIELDS.items() if (value := wrong(field)) is not None}
each_wrong = pytest.mark.parametrize("name", WRONG)


def flags(name: str, value: Any) -> list[object]:
    values = value if isinstance(value, list) else [value]
    if isinstance(value, dict):
        values = [f"{key}={text}" for key, text in value.items()]
    return [flag_of(FIELDS[name]), *values]


@each_wrong
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_what_is_beyond_the_bounds(rerank, api, jsonl, command, name):
    if name not in COMMANDS[command]:
        return
    arguments = {
        "submit": [jsonl(REQUEST)],
        "query": ["q", "--doc", "a"],
        "score": [jsonl(REQUEST), "-o", "out.jsonl", "--model", "pocket-text"],
    }
    with pytest.raises(RerankError, match=rf"\b{name}\b"):
        rerank(command, *arguments[command], *flags(name, WRONG[name]))


@each_wrong
def test_python_refuses_what_is_beyond_the_bounds(api, jsonl, name):
    option = {name: WRONG[name]}
    with pytest.raises(InvalidOption, match=rf"^{name}\b"):
        api.submit(jsonl(REQUEST), **option)
    if name not in OF_JOBS:
        with pytest.raises(InvalidOption, match=rf"^{name}\b"):
            Reranker("pocket-text", **option)
        with pytest.raises(RerankError, match=rf"^{name}\b"):
            api.rerank("q", ["a"], **option)


@each_wrong
def test_a_profile_refuses_what_is_beyond_the_bounds(tmp_path, name):
    if name not in ProfileOptions.model_fields:
        return
    value = WRONG[name]
    toml = json.dumps(value) if not isinstance(value, dict) else '{xx = "…"}'
    file = tmp_path / "profiles.toml"
    file.write_text(f"[mine]\n{name} = {toml}\n")
    with pytest.raises(RerankError, match=rf"\[mine\] of .*: {name}\b"):
        load_profiles(file)


@pytest.mark.parametrize("name", sorted(OF_A_LINE))
def test_a_line_refuses_what_is_beyond_the_bounds(name):
    line = json.dumps(REQUEST | {name: WRONG[name]}).encode()
    (failure,) = parse_line(1, line, max_documents=9).failures
    assert failure.message.startswith(f"{name}: ")


def test_http_refuses_what_is_beyond_the_bounds(http, api):
    wrongs = [(path, name) for path in ("/v1/rerank", "/v1/jobs") for name in WRONG]
    for path, name in wrongs:
        if path == "/v1/rerank" and name in OF_JOBS:
            continue
        param = param_of(name)
        part, _, inner = param.rpartition(".")
        option = {inner: WRONG[name]}
        body = {"input": "s3://b/k"} if path == "/v1/jobs" else REQUEST
        answer = http.post(path, json=body | ({part: option} if part else option))
        assert answer.status_code == 422, (path, name, answer.text)
        assert answer.json()["error"]["param"].startswith(param)


# ---- top_n --------------------------------------------------------------------------------------


def kept(line: dict[str, Any]) -> int:
    return len(line["results"])


def test_no_results_mean_all_on_the_command_line(rerank, working, jsonl, tmp_path, capsys):
    source = jsonl(REQUEST)
    for top_n, count in ((0, 3), (2, 2)):
        output = tmp_path / f"out{top_n}.jsonl"
        rerank("submit", source, "-o", output, "--top-n", top_n, "--wait")
        assert kept(json.loads(output.read_text())) == count
        capsys.readouterr()
        documents = [part for text in "abc" for part in ("--doc", text)]
        rerank("query", "q", *documents, "--top-n", top_n, "--json")
        assert kept(json.loads(capsys.readouterr().out)) == count


def test_no_results_mean_all_in_python(api, control, working, jsonl):
    for top_n, count in ((0, 3), (None, 3), (2, 2)):
        job_id = api.submit(jsonl(REQUEST), top_n=top_n)
        api.wait(job_id, timeout_s=patient(20))
        assert [kept(line) for line in api.results(job_id)] == [count]
        assert kept(api.rerank("q", ["a", "b", "c"], top_n=top_n)) == count
    same = [api.submit(jsonl(REQUEST), top_n=top_n, key="mine") for top_n in (0, None)]
    assert same[0] == same[1]  # no other options, no conflict


def test_no_results_mean_all_in_a_line(api, working, jsonl):
    job_id = api.submit(
        jsonl(*(REQUEST | {"top_n": top_n} for top_n in (0, 2, None)), REQUEST), top_n=1
    )
    api.wait(job_id, timeout_s=patient(20))

    # null and nothing leave it to the job
    assert [kept(line) for line in api.results(job_id)] == [3, 2, 1, 1]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_no_results_mean_all_in_a_request(http, working, path):
    for top_n, count in ((0, 3), (None, 3), (2, 2)):
        answer = http.post(path, json=REQUEST | {"top_n": top_n, "model": MODEL})
        assert kept(answer.json()) == count


def test_no_results_mean_all_in_a_job_over_http(http, api, working, jsonl):
    uploaded = http.post("/v1/uploads?name=in.jsonl", content=json.dumps(REQUEST)).json()["uri"]
    for top_n, count in ((0, 3), (None, 3), (2, 2)):
        answer = http.post("/v1/jobs", json={"input": uploaded, "top_n": top_n, "model": MODEL})
        api.wait(answer.json()["id"], timeout_s=patient(20))
        assert [kept(line) for line in api.results(answer.json()["id"])] == [count]


def test_no_tokens_mean_no_limit(api, http, jsonl, store):
    uploaded = http.post("/v1/uploads?name=in.jsonl", content=json.dumps(REQUEST)).json()["uri"]
    by_http = http.post("/v1/jobs", json={"input": uploaded, "max_tokens_per_doc": 0}).json()["id"]
    for job_id in (api.submit(jsonl(REQUEST), max_tokens_per_doc=0), by_http):
        assert store.jobs.get(job_id).spec.max_tokens_per_doc is None


BLANK = ["", " ", "\n\t ", "\u3000", None]
"""What is no instruction, at whatever door."""


@pytest.mark.parametrize("blank", BLANK)
def test_a_blank_instruction_is_none_in_a_job(rerank, api, http, jsonl, store, blank, capsys):
    uploaded = http.post("/v1/uploads?name=in.jsonl", content=json.dumps(REQUEST)).json()["uri"]
    job = {"input": uploaded, "model": MODEL, "instruction": blank}
    made = [api.submit(jsonl(REQUEST), model=MODEL, instruction=blank)]
    made += [http.post("/v1/jobs", json=job).json()["id"]]
    if blank is not None:
        capsys.readouterr()
        rerank("submit", jsonl(REQUEST), "--model", MODEL, "--instruction", blank)
        made.append(capsys.readouterr().out.split()[-1])
    for job_id in made:
        assert store.jobs.get(job_id).spec.instruction is None
    # and two jobs that differ in nothing else are the same
    same = [api.submit(jsonl(REQUEST), instruction=text, key="k") for text in (blank, None)]
    assert same[0] == same[1]


@pytest.mark.parametrize("blank", BLANK)
def test_a_blank_instruction_is_none_in_a_request(api, http, working, store, blank):
    line = parse_line(1, json.dumps(REQUEST | {"instruction": blank}).encode(), max_documents=9)
    assert not line.instruction
    assert not line.failures
    for path, fields in (
        ("/v1/rerank", REQUEST),
        ("/rerank", REQUEST),
        ("/v1/score", {"queries": "q", "documents": ["a"]}),
    ):
        for name in ("instruction", "instruct"):
            answer = http.post(path, json=fields | {name: blank})
            assert answer.status_code == 200, answer.text
            spec = store.jobs.get(answer.json()["id"].rpartition("-")[2]).spec
            assert spec.instruction is None
    assert kept(api.rerank("q", ["a"], instruction=blank)) == 1


def test_a_blank_instruction_is_none_in_ones_own_process():
    plain = {"query": "q", "documents": ["a"]}
    with Reranker("pocket-text", instruction=" ", limit=Limit(300)) as reranker:
        want = reranker.margins(plain | {"instruction": DEFAULT_INSTRUCTION})
        for blank in BLANK:
            assert reranker.margins(plain | {"instruction": blank}) == want
        assert reranker.margins(plain) == want
        assert reranker.margins(plain | {"instruction": "Find the reverse"}) != want


def test_a_profile_has_no_blank_instruction(tmp_path):
    file = tmp_path / "profiles.toml"
    file.write_text("[shop]\ninstruction = '  '\ntemperature = 0.5\n")
    assert make_spec(
        model="m",
        input=InputRef(uri="", size=0, tag=""),
        **load_profiles(file)["shop"].options,
    ).instruction is None  # fmt: skip
