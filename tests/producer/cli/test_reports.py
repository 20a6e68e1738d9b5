"""`rerank profiles` and `rerank stats`."""

from __future__ import annotations

import json

from rerankfleet.shared.profiles import PROFILES
from tests.producer.cli.conftest import (
    OK,
    USAGE,
    one_sentence,
)
from tests.support.fleet import MODEL, Worker, run


def test_profiles_are_listed_for_people_and_machines(rerank, monkeypatch, tmp_path):
    file = tmp_path / "profiles.toml"
    file.write_text('[shop]\nbase = "ecommerce"\ninstructions = {de = "Finde [bold] Waren"}')
    monkeypatch.setenv("RERANK_PROFILES", str(file))

    shown, profiles = rerank("profiles").out, json.loads(rerank("profiles", "--json").out)

    for name in (*PROFILES, "shop", "de: Finde [bold]", "0.3", "4096", "product"):
        assert name in shown
    assert list(profiles) == [*PROFILES, "shop"]
    assert (profiles["shop"]["base"], profiles["shop"]["batch_pairs"]) == ("ecommerce", 12)
    file.write_text("[shop")
    one_sentence(rerank("profiles"), f"the profiles {file} are not TOML")


def test_stats_are_a_table_for_people_and_json_for_machines(rerank, served, source, control, store):
    job_id = rerank("submit", source).out.strip()
    control.hints.feed(job_id)
    run(control, Worker(control))

    table, report = rerank("stats"), json.loads(rerank("stats", "--json").out)
    of_job = json.loads(rerank("stats", "--job", job_id, "--json").out)

    assert table.code == OK
    assert MODEL in table.out
    rows = {(row["kind"], row["name"]): row for row in report["statistics"]}
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
