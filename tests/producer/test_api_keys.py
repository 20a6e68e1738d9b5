"""The file of API keys: what it may hold, and what is said of one that is wrong."""

from __future__ import annotations

import os

import pytest
from pydantic import SecretStr

from rerankfleet.producer.api_keys import (
    ApiKey,
    KeyRing,
    Rate,
    Right,
    digest_of,
    new_key,
    read_key_file,
    table_of,
)
from rerankfleet.producer.ports import refuse_open
from rerankfleet.shared.errors import UsageError
from tests.support.keys import KeyFile

HASH = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64


@pytest.fixture
def file(tmp_path):
    return KeyFile(tmp_path / "keys.toml")


def test_a_made_key_is_known_by_its_table(file, change):
    key = file.add("search-team", "rerank", "jobs", rate="600/minute")
    file.add("a.b_c", "metrics")

    ring = KeyRing(change(api_keys_file=file.path))

    rights = frozenset({Right.rerank, Right.jobs})
    assert ring.find(key) == ApiKey("search-team", rights, Rate(600, 60))
    assert ring.find(file.keys["a.b_c"]).rights == {Right.metrics}
    assert ring.find(new_key()) is None
    assert key not in file.path.read_text()


def test_an_old_and_a_new_key_may_have_one_name(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys.a]\nhash = ["{HASH}", "{OTHER}"]\nrights = ["jobs"]\n')
    assert {key.name for key in read_key_file(path).values()} == {"a"}
    assert read_key_file(path).keys() == {HASH, OTHER}


def test_keys_of_the_list_may_do_everything_and_are_called_by_their_hash(change, file):
    named = file.add("a", "rerank")
    ring = KeyRing(change(api_keys=(SecretStr("one"),), api_keys_file=file.path))
    assert ring.find("one") == ApiKey(f"key-{digest_of('one')[7:15]}", frozenset(Right))
    assert ring.find(named).name == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key: write a table per key: \\[keys.NAME\\]"),
        ("[keys]", "holds no key"),
        ("keys = 3", "holds no key"),
        ("[key.a]", "has the unknown entry 'key'"),
        ("[keys.a", "are not TOML"),
        (f"[keys.a]\nhash = '{HASH}'\n[keys.a]\n", "are not TOML"),
        ("[keys]\na = 3", "a is no table"),
        ("[keys.'a b']", "cannot be called 'a b'"),
        ("[keys.none]", "cannot be called 'none'"),
        ("[keys.key-01234567]", "cannot be called 'key-01234567'"),
        (f"[keys.{'a' * 65}]", "cannot be called"),
        ("[keys.a]\nrights = ['jobs']", "the key a: hash: Field required"),
        (f"[keys.a]\nhash = '{HASH}'", "the key a: rights: Field required"),
        (f"[keys.a]\nhash = '{HASH}'\nrights = 'jobs'", "the key a: rights: expected a list"),
        (f"[keys.a]\nhash = '{HASH}'\nrights = []", "the key a: rights: expected a list"),
        (
            f"[keys.a]\nhash = '{HASH}'\nrights = ['job']",
            "the key a: rights: there is no right 'job', only rerank, jobs, metrics, admin",
        ),
        (
            f"[keys.a]\nhash = '{HASH}'\nright = ['jobs']",
            "the key a has the unknown field 'right': did you mean rights",
        ),
        (
            f"[keys.a]\nhash = '{HASH}'\nrights = ['jobs']\nxyz = 1",
            "unknown field 'xyz': expected hash, rights, rate",
        ),
        ("[keys.a]\nhash = 'my-secret'\nrights = ['jobs']", "the key a: hash: expected sha256:"),
        (f"[keys.a]\nhash = []\nrights = ['jobs']\n#{HASH}", "the key a: hash: "),
        (f"[keys.a]\nhash = '{HASH}'\nrights = ['jobs']\nrate = '9'", "the key a: rate: expected"),
        (f"[keys.a]\nhash = '{HASH}'\nrights = ['jobs']\nrate = 9", "the key a: rate: "),
        (f"[keys.a]\nhash = '{HASH}'\nrights = ['jobs']\nrate = '0/day'", "the key a: rate: "),
        (
            f"[keys.a]\nhash = '{HASH}'\nrights = ['jobs']\n"
            f"[keys.b]\nhash = '{HASH}'\nrights = ['jobs']",
            "the keys a and b have the same hash",
        ),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(tmp_path, change, text, said):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as refused:
        refuse_open(change(api_keys_file=path))
    assert str(path) in str(refused.value)
    assert "my-secret" not in str(refused.value)
    assert "\n" not in str(refused.value).strip()


def test_a_missing_file_is_refused_and_one_key_has_one_meaning(change, file):
    with pytest.raises(UsageError, match=r"cannot be read: No such file .* RERANK_API_KEYS_FILE"):
        refuse_open(change(api_keys_file=file.path))
    key = file.add("a", "rerank")
    with pytest.raises(UsageError, match="the key a is in RERANK_API_KEYS too"):
        KeyRing(change(api_keys_file=file.path, api_keys=(SecretStr(key),)))


def test_a_file_of_keys_lets_a_gateway_listen_beyond_this_host(change, file):
    with pytest.raises(UsageError, match="without keys"):
        refuse_open(change(gateway_host="0.0.0.0"))
    file.add("a", "rerank")
    refuse_open(change(gateway_host="0.0.0.0", api_keys_file=file.path))


def test_a_changed_file_is_read_and_a_wrong_one_changes_nothing(change, file, capsys):
    kept, gone = file.add("kept", "rerank"), file.add("gone", "rerank")
    ring = KeyRing(change(api_keys_file=file.path))

    file.remove("gone")
    ring.refresh()
    assert (ring.find(kept).name, ring.find(gone)) == ("kept", None)
    assert "gone=['gone']" in capsys.readouterr().err

    for make_wrong in (lambda: file.path.write_text("[keys"), lambda: os.unlink(file.path)):
        make_wrong()
        for _ in range(3):
            ring.refresh()
        assert ring.find(kept).name == "kept"
        assert capsys.readouterr().err.count("stay in force") == 1  # once per version

    file.add("new", "jobs")
    ring.refresh()
    assert ring.find(file.keys["new"]).name == "new"


@pytest.mark.parametrize(
    ("text", "rate", "said"),
    [
        ("1/second", Rate(1, 1), "1 request a second"),
        ("600/minute", Rate(600, 60), "600 requests a minute"),
        ("5000/hour", Rate(5000, 3600), "5,000 requests an hour"),
        ("9/day", Rate(9, 86_400), "9 requests a day"),
    ],
)
def test_a_rate(text, rate, said):
    assert Rate.read(text) == rate
    assert str(rate) == said


@pytest.mark.parametrize("text", ["", "9", "9/week", "-1/day", "0/day", "1.5/day", "9 / day", "9/"])
def test_what_is_no_rate(text):
    with pytest.raises(ValueError, match="as in 600/minute"):
        Rate.read(text)


def test_a_table_is_checked_before_it_is_printed():
    with pytest.raises(UsageError, match=r"^the key a: rights: there is no right 'all'"):
        table_of("a", new_key(), ["all"], None)
    with pytest.raises(UsageError, match=r"^a key cannot be called '\[x\]'"):
        table_of("[x]", new_key(), ["jobs"], None)
