"""`rerank doctor`: what works is reported, what is broken comes with a remedy."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from rerankfleet.shared import cli
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.connection import connect
from rerankfleet.shared.state.records import OpenShard
from rerankfleet.workers.diagnostics import doctor, model_check
from rerankfleet.workers.diagnostics.checks import Check
from rerankfleet.workers.diagnostics.doctor import examine
from rerankfleet.workers.diagnostics.model_check import check_model
from rerankfleet.workers.prompting.text import SUFFIX
from tests.support.fleet import MODEL, worker_row
from tests.support.server import free_port, valkey
from tests.support.vl_model import build_vl_model


@pytest.fixture
def healthy(settings, store, fleet, monkeypatch) -> Settings:
    """The environment of a fleet that works, over a server without an append-only file."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    settings.allowed_roots[0].mkdir()
    store.coordination.pulse()
    fleet.beat(worker_row(version=doctor.__version__))
    return settings


def finding(checks: list[Check], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def broken(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.fact for check in checks if check.verdict == "broken"}


# ---- the fleet ----------------------------------------------------------------------------------


def test_a_fleet_that_works_has_nothing_broken(healthy):
    checks = examine()

    assert broken(checks) == {}
    for name in ("settings", "storage", "Redis", "clock", "coordinator", "maxmemory-policy"):
        assert finding(checks, name).verdict == "ok", name
    assert finding(checks, "workers").fact == f"{MODEL}: 1 ready"
    assert "jobs are lost" in finding(checks, "append-only file").fact
    assert all(check.remedy for check in checks if check.verdict != "ok")


def test_the_storage_is_left_as_it_was(healthy):
    examine()
    assert not [p for p in Path(healthy.storage).rglob("*") if p.is_file()]


def test_an_append_only_file_is_reported(healthy, tmp_path, monkeypatch):
    with valkey(tmp_path, appendonly="yes") as url:
        monkeypatch.setenv("RERANK_REDIS_URL", url)
        assert finding(examine(), "append-only file").verdict == "ok"


def test_a_server_that_drops_keys_is_broken(healthy, tmp_path, monkeypatch):
    with valkey(tmp_path, maxmemory="64mb", maxmemory_policy="allkeys-lru") as url:
        monkeypatch.setenv("RERANK_REDIS_URL", url)
        check = finding(examine(), "maxmemory-policy")
    assert (check.verdict, check.fact) == ("broken", "allkeys-lru at 64 MiB: keys vanish")
    assert "noeviction" in check.remedy


def test_an_unreachable_redis_is_broken_and_its_address_is_reported(healthy, monkeypatch):
    port = free_port()
    monkeypatch.setenv("RERANK_REDIS_URL", f"redis://me:hush@127.0.0.1:{port}/0")

    checks = examine()

    assert f"Redis at redis://me:***@127.0.0.1:{port}/0 does not answer" in broken(checks)["Redis"]
    assert "hush" not in str(checks)
    assert finding(checks, "storage").verdict == "ok"


def test_a_wrong_setting_is_broken(healthy, monkeypatch):
    monkeypatch.setenv("RERANK_LEASE_S", "soon")
    assert "RERANK_LEASE_S is wrong" in broken(examine())["settings"]


def test_a_storage_that_cannot_be_written_is_broken(healthy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RERANK_STORAGE", str(tmp_path / "file"))
    assert "storage" in broken(examine())


def test_a_storage_that_may_only_be_read_is_broken(healthy, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rerankfleet.shared.storage.files.new_file", refuse)
    check = finding(examine(), "storage")
    assert (check.verdict, check.remedy) == ("broken", "check permissions")


def test_a_root_that_does_not_exist_is_named(healthy):
    healthy.allowed_roots[0].rmdir()
    check = finding(examine(), "allowed roots")
    assert check.verdict == "warning"
    assert str(healthy.allowed_roots[0]) in check.fact


def test_a_silent_coordinator_is_broken(healthy, client, store):
    client.set(store.keys.pulse, store.now_ms() - 60_000)
    assert "has not ticked for 60 s" in broken(examine())["coordinator"]


def test_workers_that_differ_are_named(healthy, fleet):
    fleet.beat(worker_row("w2", fingerprint="other", version="0.0.1"))

    checks = examine()

    assert finding(checks, "workers of one model differ").verdict == "warning"
    assert "of version 0.0.1" in finding(checks, "workers").fact


def test_shards_without_a_worker_are_broken(healthy, store):
    spec = make_spec(model="org/new", input=InputRef(uri="file:///in", size=1, tag="t"))
    store.jobs.create("j", spec, "digest")
    shards = [OpenShard(0, 1, "0-0-1-x")]
    store.shards.open(store.jobs.get("j"), ("", "1"), shards, sealed=True, lines=1, low_water=0)

    assert "1 shards of org/new wait" in broken(examine())["no worker"]


def test_no_worker_at_all_is_worth_a_word(healthy, fleet):
    fleet.leave("w1")
    assert finding(examine(), "workers").verdict == "warning"


def test_a_clock_that_is_off_is_named(healthy, monkeypatch):
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() + 30)
    assert finding(examine(), "clock").fact.startswith("+30")


def test_an_old_server_is_named(healthy, monkeypatch):
    monkeypatch.setattr(doctor.Store, "server_info", lambda _: {"redis_version": "6.2.1"})
    checks = examine()
    assert finding(checks, "Redis").verdict == "warning"
    assert "redis 6.2.1 at" in finding(checks, "Redis").fact


# ---- this machine -------------------------------------------------------------------------------


def test_a_machine_that_only_submits_is_no_broken_one(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: None)

    checks = examine("pocket-text")

    assert finding(checks, "scoring").verdict == "warning"
    assert "rerankfleet[worker]" in finding(checks, "scoring").remedy
    assert list(broken(checks)) == ["model"]


def test_a_gpu_that_torch_cannot_use_is_broken(healthy, monkeypatch):
    monkeypatch.setattr(doctor, "_gpus", lambda: ["NVIDIA H200"])
    monkeypatch.setattr(doctor, "_version", lambda package: "2.10.0+cpu")
    assert "torch 2.10.0+cpu cannot use them" in broken(examine())["GPUs"]
    monkeypatch.setattr(doctor, "_version", lambda package: "2.10.0")
    assert finding(examine(), "GPUs").fact == "NVIDIA H200"


@pytest.mark.parametrize(("compiler", "verdict"), [(True, "ok"), (False, "warning")])
def test_beside_gpus_a_c_compiler_is_looked_for(compiler, verdict, monkeypatch):
    monkeypatch.setattr(doctor, "_gpus", lambda: ["NVIDIA H200"])
    monkeypatch.setattr(doctor, "has_compiler", lambda: compiler)
    check = finding(list(doctor._of_install()), "C compiler")
    assert check.verdict == verdict
    assert ("gcc" in check.remedy) != compiler


# ---- a model ------------------------------------------------------------------------------------


@pytest.fixture
def copy(model_folders, tmp_path) -> Path:
    """A copy of a text model to damage."""
    return shutil.copytree(model_folders["tied"], tmp_path / "copy")


@pytest.fixture(scope="session")
def vl_folder(tmp_path_factory) -> Path:
    return build_vl_model(tmp_path_factory.mktemp("vl"))


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_tokeniser(folder: Path, old: str, new: str) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("name", ["pocket-text", "pocket-vl"])
def test_the_pocket_models_are_ok(name):
    checks = list(check_model(name))
    assert {check.verdict for check in checks} == {"ok"}
    assert [check.name for check in checks] == ["model", "tokens", "template", "vocabulary"]


def test_models_of_both_kinds_are_ok(model_folder, vl_folder):
    for folder in (model_folder, vl_folder):
        assert {check.verdict for check in check_model(str(folder))} == {"ok"}


@pytest.mark.parametrize(
    ("old", "new", "name", "says"),
    [
        ('"yes"', '"yea"', "tokeniser", "tokenizer.json cannot be read"),
        ("<|im_end|>", "<|in_end|>", "tokens", "no single token '<|im_end|>'"),
        ("</think>", "</thank>", "tokens", "no single token '</think>'"),
    ],
)
def test_a_tokeniser_without_what_the_template_needs_is_broken(copy, old, new, name, says):
    edit_tokeniser(copy, old, new)
    assert says in broken(list(check_model(str(copy))))[name]


def test_a_tokeniser_that_spells_the_answer_is_broken(copy):
    """Given one in which "yes" is two tokens."""
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    model = tokenizer["model"]
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) != "yes"]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))

    assert "no single token 'yes'" in broken(list(check_model(str(copy))))["tokeniser"]


def test_a_folder_without_a_tokeniser_is_broken(copy):
    (copy / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in broken(list(check_model(str(copy))))["tokeniser"]


def test_token_ids_of_another_model_are_broken(vl_folder, tmp_path):
    """Given a config.json that names other ids than the tokeniser has."""
    folder = shutil.copytree(vl_folder, tmp_path / "wrong")
    change_config(folder, image_token_id=7)

    check = finding(list(check_model(str(folder))), "token ids")

    assert check.verdict == "broken"
    assert "image_token_id 7" in check.fact
    assert "download the model again" in check.remedy


def test_ids_that_are_not_the_published_ones_are_broken(copy, monkeypatch):
    """Given a tokeniser as large as Qwen's, but with other ids."""
    monkeypatch.setattr(model_check, "QWEN_TOKENS", 100)

    findings = broken(list(check_model(str(copy))))

    assert "not 9693" in findings["tokens"]
    assert "the assistant turn is" in findings["template"]


def test_published_ids_are_ok(copy, monkeypatch):
    source = model_check.TokenSource(copy)
    ids = {name: source.token(name) for name in model_check.QWEN_IDS | model_check.QWEN_TEXT_IDS}
    monkeypatch.setattr(model_check, "QWEN_TOKENS", 100)
    monkeypatch.setattr(model_check, "QWEN_IDS", ids)
    monkeypatch.setattr(model_check, "QWEN_TEXT_IDS", {})
    suffix = source.encode_template(SUFFIX)
    monkeypatch.setattr(model_check, "QWEN_SUFFIXES", {SUFFIX: suffix})

    (template,) = [c for c in check_model(str(copy)) if c.name == "template"]
    assert "the system turn has" in template.fact

    tokens = len(source.encode_template(model_check.SYSTEM_TURN))
    monkeypatch.setattr(model_check, "QWEN_SYSTEM_TOKENS", tokens)
    assert broken(list(check_model(str(copy)))) == {}


def test_a_template_that_joins_other_ids_is_broken(copy, monkeypatch):
    """Given a tokeniser that joins what the template cuts."""
    real = model_check.TokenSource.encode_template
    monkeypatch.setattr(
        model_check.TokenSource,
        "encode_template",
        lambda self, text: real(self, text)[: 40 if "Document>" in text else None],
    )
    assert "other ids than the whole" in broken(list(check_model(str(copy))))["template"]


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"vocab_size": 300}, "vocabulary", "the model 300"),
        ({"vocab_size": 9000}, "vocabulary", "config.json says 9,000"),
        ({"architectures": ["BertModel"]}, "model", "is a BertModel"),
        ({"attention_bias": True}, "model", "attention_bias is not supported"),
    ],
)
def test_a_config_that_does_not_fit_is_broken(copy, changes, name, says):
    change_config(copy, **changes)
    assert says in broken(list(check_model(str(copy))))[name]


def test_damaged_weights_say_so(copy):
    (weights,) = copy.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:20])
    (check,) = check_model(str(copy))
    assert (check.verdict, "cannot be loaded" in check.fact) == ("broken", True)


def test_a_hub_model_is_checked_only_where_it_was_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (check,) = check_model("org/never-downloaded")
    assert (check.verdict, "not on this machine yet" in check.fact) == ("broken", True)


# ---- the command --------------------------------------------------------------------------------


def rerank(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["rerank", *arguments])
    monkeypatch.setattr(cli, "configure_logs", lambda: None)
    code: object = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    return int(str(code)), capsys.readouterr().out


def test_the_command_prints_rows_and_ends_with_0_when_nothing_is_broken(
    healthy, monkeypatch, capsys
):
    code, out = rerank(monkeypatch, capsys, "doctor", "--model", "pocket-text")

    assert code == 0
    assert "✓" in out
    assert "!" in out
    assert "→ " in out


def test_the_command_ends_with_1_when_something_is_broken(healthy, client, monkeypatch, capsys):
    connect(healthy).delete(f"{healthy.key_prefix}:pulse")

    code, out = rerank(monkeypatch, capsys, "doctor", "--json")

    assert code == 1
    assert {"name", "verdict", "found", "remedy"} == set(json.loads(out)[0])


# ---- the storage --------------------------------------------------------------------------------


def quota(checks: list[Check], kind: str) -> Check:
    (check,) = [c for c in checks if c.name == "quota" and c.fact.startswith(kind)]
    return check


def test_what_the_storage_keeps_is_told_beside_the_quotas(healthy, store, monkeypatch):
    monkeypatch.setenv("RERANK_JOBS_BYTES_MAX", "1000")
    store.ledger.reserve("uploads", "u", 2048, lease_ms=60_000, bytes_max=0, begins=True)
    store.ledger.reserve("jobs", "j", 901, lease_ms=60_000, bytes_max=0, begins=True)
    checks = examine()
    uploads, jobs = quota(checks, "uploads"), quota(checks, "jobs")
    assert (uploads.verdict, uploads.fact) == ("ok", "uploads keep 2.0 KiB of 100.0 GiB at most")
    assert (jobs.verdict, jobs.fact) == ("warning", "jobs keep 901 bytes of 1,000 bytes at most")
    assert "RERANK_JOBS_BYTES_MAX" in jobs.remedy


@pytest.mark.parametrize(("least", "verdict"), [(1, "ok"), (1 << 60, "broken")])
def test_a_disk_that_is_nearly_full_is_told(healthy, monkeypatch, least, verdict):
    monkeypatch.setenv("RERANK_FREE_BYTES_MIN", str(least))
    disks = [check for check in examine() if check.name == "disk"]
    assert disks[-1].verdict == verdict
    assert ("uploads and new jobs are refused" in disks[-1].fact) == (verdict == "broken")
