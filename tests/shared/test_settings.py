"""All settings: one frozen value, and one sentence about what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from rerankfleet.shared.addresses import mask
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.settings import (
    ADDRESS_FILE,
    Settings,
    load_settings,
    read_address,
    read_environment,
)


@pytest.fixture
def state(tmp_path: Path, monkeypatch) -> Path:
    """A state folder that the environment names."""
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path))
    return tmp_path


def record(state: Path, **fields) -> None:
    (state / ADDRESS_FILE).write_text(json.dumps(fields))


def test_the_environment_is_read_with_its_prefix(monkeypatch):
    monkeypatch.setenv("RERANK_REDIS_URL", "redis://host/1")
    monkeypatch.setenv("RERANK_LEASE_S", "7.5")
    monkeypatch.setenv("RERANK_ALLOWED_BUCKETS", "one, two,")
    monkeypatch.setenv("RERANK_ALLOWED_ROOTS", "/a,/b c")

    settings = load_settings()

    assert settings.redis_address == "redis://host/1"
    assert settings.lease_s == 7.5
    assert settings.allowed_buckets == ("one", "two")
    assert settings.allowed_roots == (Path("/a"), Path("/b c"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_S", "soon"),
        ("LEASE_S", "0.5"),
        ("LOG_LEVEL", "loud"),
        ("DTYPE", "int3"),
        ("BATCH_TOKENS", "1"),
        ("SHARD_PAIRS_MAX", "0"),
        ("DETERMINISTIC", "perhaps"),
    ],
)
def test_a_value_that_is_wrong_names_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(f"RERANK_{name}", value)

    for read in (load_settings, read_environment):
        with pytest.raises(UsageError, match=f"RERANK_{name} is wrong: Input should be"):
            read()


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("BATCH_TOKENS_MIN", "BATCH_TOKENS_MAX"),
        ("THRESHOLD_LOW_MS", "THRESHOLD_HIGH_MS"),
        ("THRESHOLD_PAIRS_MIN", "THRESHOLD_PAIRS_MAX"),
    ],
)
def test_an_upper_bound_is_not_below_its_lower_bound(monkeypatch, lower, upper):
    monkeypatch.setenv(f"RERANK_{lower}", "300")
    monkeypatch.setenv(f"RERANK_{upper}", "200")

    with pytest.raises(UsageError, match=f"RERANK_{upper} is wrong: .* below RERANK_{lower}, 300"):
        read_environment()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RERANK_API_KEY", "RERANK_API_KEYS"),
        ("RERANK_APIKEYS", "RERANK_API_KEYS"),
        ("rerank_api_key", "RERANK_API_KEYS"),
        ("RERANK_ALLOWED_HOST", "RERANK_ALLOWED_HOSTS"),
        ("RERANK_REDISURL", "RERANK_REDIS_URL"),
        ("RERANK_XYZ_Q", None),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_with_the_nearest(monkeypatch, name, meant):
    monkeypatch.setenv(name, "secret")

    for read in (load_settings, read_environment):
        with pytest.raises(UsageError, match=f"{name} is not a setting") as caught:
            read()
        assert (f"did you mean {meant}?" if meant else "docs/settings.md") in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("keys", ["", " ", ",", " , "])
def test_keys_that_were_set_are_not_none(monkeypatch, keys):
    monkeypatch.setenv("RERANK_API_KEYS", keys)
    with pytest.raises(UsageError, match="RERANK_API_KEYS is set and holds no key"):
        read_environment()


def test_what_kubernetes_sets_for_services_is_no_setting(monkeypatch):
    # given the variables of Services named rerank, rerank-gateway and rerank-redis
    for name in ("RERANK", "RERANK_GATEWAY", "RERANK_REDIS"):
        monkeypatch.setenv(f"{name}_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv(f"{name}_SERVICE_PORT", "8080")
        monkeypatch.setenv(f"{name}_SERVICE_PORT_HTTP", "8080")
        monkeypatch.setenv(f"{name}_PORT", "tcp://10.0.0.1:8080")
        monkeypatch.setenv(f"{name}_PORT_8080_TCP", "tcp://10.0.0.1:8080")
        monkeypatch.setenv(f"{name}_PORT_8080_TCP_ADDR", "10.0.0.1")
    # then none of them is a mistake, and none is taken for the gateway's port
    assert read_environment().gateway_port == 8080


def test_settings_do_not_change():
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.lease_s = 3


def test_without_a_redis_the_recorded_address_is_used(state):
    record(state, redis_url="redis://127.0.0.1:1/0", storage="file:///recorded", pid=1)

    settings = load_settings()

    assert settings.redis_address == "redis://127.0.0.1:1/0"
    assert settings.storage_uri == "file:///recorded"


def test_what_is_set_comes_before_what_is_recorded(state, monkeypatch):
    record(state, redis_url="redis://recorded/0", storage="/recorded")
    monkeypatch.setenv("RERANK_STORAGE", "/set")

    assert load_settings().redis_address == "redis://recorded/0"
    assert load_settings().storage_uri == "file:///set"
    monkeypatch.setenv("RERANK_REDIS_URL", "redis://set/0")
    assert load_settings().redis_address == "redis://set/0"
    assert load_settings(redis_url="redis://given/0").redis_address == "redis://given/0"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"redis_url": 7}', "{}"])
def test_a_broken_record_is_as_good_as_none(state, content):
    (state / ADDRESS_FILE).write_text(content)

    with pytest.raises(UsageError, match=r"no Redis is known: start a fleet"):
        _ = load_settings().redis_address


def test_no_record_is_no_address(tmp_path):
    assert read_address(tmp_path / "none") == {}


def test_the_storage_is_a_folder_or_a_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert Settings(storage="work/").storage_uri == f"file://{tmp_path}/work"
    assert Settings(storage="s3://bucket/prefix/").storage_uri == "s3://bucket/prefix"
    assert Settings(state_dir=tmp_path).storage_uri == f"file://{tmp_path}/storage"


def test_a_child_process_gets_equal_settings(monkeypatch, tmp_path):
    settings = Settings(
        redis_url="redis://:pw@host/0",
        storage="s3://bucket/x",
        state_dir=tmp_path,
        allowed_buckets=("one", "two"),
        allowed_roots=(tmp_path,),
        batch_tokens=4096,
        deterministic=True,
        log_level="WARNING",
    )
    environment = settings.environment()
    assert environment["RERANK_REDIS_URL"] == "redis://:pw@host/0"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert load_settings() == settings


def test_settings_can_be_printed_without_their_secret():
    settings = Settings(redis_url="redis://:hunter2@host/0")

    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)
    assert "hunter2" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("rediss://me:p@ss://w@host/0", "rediss://me:***@host/0"),
        ("me:pw@host", "me:***@host"),
        ("redis://host/0?password=pw&timeout=5", "redis://host/0?password=***&timeout=5"),
    ],
)
def test_an_address_is_shown_without_its_password(url, shown):
    assert mask(url) == shown


def test_every_setting_says_what_it_is_for():
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_the_url_of_redis_may_be_in_a_file(state, monkeypatch):
    # given a file as a container's secret has it, and an address that `rerank up` recorded
    record(state, redis_url="redis://recorded/0")
    file = state / "redis-url"
    file.write_text("redis://:hunter2@host/0\n")
    monkeypatch.setenv("RERANK_REDIS_URL_FILE", str(file))

    # then it is the URL, also for a child process
    settings = load_settings()
    assert settings.redis_address == "redis://:hunter2@host/0"
    assert settings.environment()["RERANK_REDIS_URL"] == "redis://:hunter2@host/0"
    assert "hunter2" not in repr(settings)
    # and one that is set comes before it, whatever the file holds
    file.unlink()
    monkeypatch.setenv("RERANK_REDIS_URL", "redis://set/0")
    assert load_settings().redis_address == "redis://set/0"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"redis://a\nhunter2", b"\xffhunter2"])
def test_a_file_without_a_url_is_named_and_not_shown(state, monkeypatch, content):
    file = state / "redis-url"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("RERANK_REDIS_URL_FILE", str(file))

    with pytest.raises(UsageError) as raised:
        load_settings()

    assert "RERANK_REDIS_URL_FILE" in raised.value.message
    assert str(file) in raised.value.message
    assert "hunter2" not in f"{raised.value.message} {raised.value.hint}"
