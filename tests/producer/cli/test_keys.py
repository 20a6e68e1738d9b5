"""`rerank key`: a key and its table, without Redis."""

from __future__ import annotations

import pytest

from rerankfleet.producer.api_keys import Rate, Right, digest_of, read_key_file
from tests.producer.cli.conftest import OK, USAGE


@pytest.fixture
def no_redis(monkeypatch):
    monkeypatch.setenv("RERANK_REDIS_URL", "redis://127.0.0.1:1/0")


def test_a_key_is_shown_once_and_its_table_fits_the_file(rerank, no_redis, tmp_path):
    team = rerank("key", "search-team", "--rate", "600/minute")
    scraper = rerank("key", "prometheus", "--rights", " metrics, ")

    assert (team.code, scraper.code) == (OK, OK)
    path = tmp_path / "keys.toml"
    path.write_text(team.out + scraper.out)  # as >> appends them
    keys = {key.name: (digest, key) for digest, key in read_key_file(path).items()}
    (_, _, shown) = team.err.strip().rpartition(" ")
    digest, key = keys["search-team"]
    assert digest == digest_of(shown)
    assert shown not in team.out
    assert (key.rights, key.rate) == ({Right.rerank, Right.jobs}, Rate(600, 60))
    assert keys["prometheus"][1].rights == {Right.metrics}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b"], "a key cannot be called 'a b'"),
        (["a", "--rights", "all"], "there is no right 'all', only rerank, jobs, metrics, admin"),
        (["a", "--rights", ","], "expected a list"),
        (["a", "--rate", "9/week"], "expected a number per second, minute, hour or day"),
    ],
)
def test_what_is_wrong_makes_no_key(rerank, no_redis, arguments, said):
    ran = rerank("key", *arguments)
    assert (ran.code, ran.out) == (USAGE, "")
    assert said in ran.err
