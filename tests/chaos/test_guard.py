"""`rerank chaos` breaks nothing that anybody else uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
import typer
from click.testing import CliRunner

from rerankfleet.chaos.driver import Plan, run_on_test_cluster, steady_client
from rerankfleet.chaos.guard import DEFAULT_PREFIX, FLAG, Lookout, refuse_used
from rerankfleet.producer.client import Client
from rerankfleet.shared import cli
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.ids import new_id
from rerankfleet.shared.settings import Settings
from tests.support.records import spec_of


@pytest.fixture
def fleet_client(settings: Settings) -> Client:
    return Client(settings)


@pytest.fixture
def raw(settings: Settings) -> redis.Redis:
    return steady_client(settings)


def a_job(client: Client, name: str) -> str:
    """An unfinished job of that name."""
    return client.store.jobs.create(new_id(), spec_of(name=name), "digest")


def end(client: Client, raw: redis.Redis) -> None:
    """Forget all jobs."""
    raw.delete(*raw.scan_iter(match=f"{client.settings.key_prefix}:job*"))


def test_without_the_flag_nothing_is_done(tmp_path: Path) -> None:
    # given an address at which nothing may be tried
    env = {"RERANK_REDIS_URL": "redis://127.0.0.1:1/0", "RERANK_KEY_PREFIX": "test"}
    command = typer.main.get_command(cli.build())
    # when the flag is missing
    done = CliRunner().invoke(command, ["chaos"], env=env)
    # then one sentence says what it does, and with which flag
    assert isinstance(done.exception, UsageError)
    assert "kills processes" in str(done.exception)
    assert FLAG in str(done.exception)
    # and with it, it would have gone to that address
    done = CliRunner().invoke(command, ["chaos", FLAG], env=env)
    assert "does not answer" in str(done.exception)


def test_an_empty_fleet_with_a_prefix_of_its_own_may_be_broken(
    fleet_client: Client, raw: redis.Redis
) -> None:
    refuse_used(fleet_client, raw)


def test_a_fleet_with_the_usual_prefix_is_left_alone(settings: Settings, raw: redis.Redis) -> None:
    usual = settings.model_copy(update={"key_prefix": DEFAULT_PREFIX})
    with pytest.raises(UsageError, match="may be the one that people work with"):
        refuse_used(Client(usual), raw)


@pytest.mark.parametrize("database", [0, 3])
def test_a_server_that_holds_anything_else_is_left_alone(
    fleet_client: Client, raw: redis.Redis, redis_server: str, database: int
) -> None:
    url = redis_server.rpartition("/")[0]
    with redis.Redis.from_url(f"{url}/{database}") as other:
        other.set("somebody", "else")
        try:
            with pytest.raises(UsageError, match="also holds"):
                refuse_used(fleet_client, raw)
        finally:
            other.delete("somebody")


def test_a_fleet_with_a_job_of_somebody_in_hand_is_left_alone(
    fleet_client: Client, raw: redis.Redis
) -> None:
    # given a job of an earlier run: that is no reason
    a_job(fleet_client, "chaos-u1-1")
    refuse_used(fleet_client, raw)
    # when somebody else has one
    theirs = a_job(fleet_client, "catalog of May")
    # then it is named
    with pytest.raises(UsageError, match=theirs):
        refuse_used(fleet_client, raw)
    end(fleet_client, raw)
    raw.delete(fleet_client.store.keys.jobs)


def test_a_run_ends_when_somebody_begins_to_use_the_cluster(
    fleet_client: Client, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a run that looks all the time
    monkeypatch.setattr("rerankfleet.chaos.guard.LOOK_S", 0)
    look = Lookout(fleet_client)
    look()
    # when somebody submits a job
    a_job(fleet_client, "urgent")
    # then it ends
    with pytest.raises(UsageError, match="somebody else"):
        look()
    end(fleet_client, raw)
    raw.delete(fleet_client.store.keys.jobs)


def test_a_whole_run_asks_before_it_begins(settings: Settings, tmp_path: Path) -> None:
    usual = settings.model_copy(update={"key_prefix": DEFAULT_PREFIX})
    with pytest.raises(UsageError, match="people work with"):
        run_on_test_cluster(Plan(), usual, None, tmp_path)
