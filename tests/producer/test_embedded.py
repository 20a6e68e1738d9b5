"""The server that `rerank up` starts: its own, private, and never another's."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from rerankfleet.producer import embedded, local
from rerankfleet.producer.embedded import embedded_server
from rerankfleet.shared.errors import QueueUnavailable, UsageError
from rerankfleet.shared.settings import Settings
from tests.support.server import free_port, valkey


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / 'a "quoted" folder'
    folder.mkdir()
    return folder


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[int]:
    """The port of a server of somebody else's."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    port = free_port()
    with valkey(folder, port=port):
        yield port


def ports(monkeypatch: pytest.MonkeyPatch, *found: int) -> None:
    """Let these be found free: as when another process takes one a moment later."""
    left = iter(found)
    monkeypatch.setattr(embedded, "free_port", lambda *_: next(left))


def test_a_port_that_another_server_took_is_left_to_it(monkeypatch, data, stranger):
    # given a port that was free when it was looked for, and now is a stranger's
    ports(monkeypatch, stranger, own := free_port())
    # when the server starts
    with embedded_server(data) as (url, server):
        # then it is one of our own
        with redis.Redis.from_url(url) as client:
            info = client.info("server")
        assert (info["process_id"], info["tcp_port"]) == (server.process.pid, own)


def test_where_no_server_can_start_it_says_where_to_look(monkeypatch, data, stranger):
    ports(monkeypatch, *[stranger] * embedded.STARTS_MAX)
    with (
        pytest.raises(QueueUnavailable, match=r"did not start .*server\.log"),
        embedded_server(data),
    ):
        pass


def test_nobody_works_on_its_records_without_the_password(data):
    with embedded_server(data) as (url, server):
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
            port = client.info("server")["tcp_port"]
        with (
            redis.Redis(port=port) as nobody,
            pytest.raises(redis.AuthenticationError),
        ):
            nobody.get("key")
        # and the password stands nowhere that another user may read
        password = url.partition("://:")[2].partition("@")[0]
        assert password not in " ".join(psutil.Process(server.process.pid).cmdline())
        files = [path for path in data.rglob("*") if path.is_file()]
        assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in files} == {0}
        assert any(password in path.read_text(errors="replace") for path in files)


def test_data_is_kept_and_the_password_is_not(data):
    urls = []
    for _ in range(2):
        with embedded_server(data) as (url, _server), redis.Redis.from_url(url) as client:
            urls.append(url)
            client.incr("starts")
            starts = client.get("starts")
    assert starts == b"2"
    assert len(set(urls)) == 2


def test_a_new_state_folder_is_its_users_alone(tmp_path):
    settings = Settings(state_dir=tmp_path / "new")
    local._make_private_folders(settings)
    assert {mode(path) for path in (settings.state_dir, *settings.state_dir.iterdir())} == {0o700}


def test_a_folder_that_exists_keeps_its_mode(tmp_path):
    tmp_path.chmod(0o755)
    local._make_private_folders(Settings(state_dir=tmp_path))
    assert mode(tmp_path) == 0o755
    assert {mode(path) for path in tmp_path.iterdir()} == {0o700}


def test_a_second_stack_is_refused_while_the_first_is_only_starting(tmp_path):
    with (
        local._only_stack(tmp_path),
        pytest.raises(UsageError, match=r"already runs .* RERANK_STATE_DIR"),
        local._only_stack(tmp_path),
    ):
        pass
    with local._only_stack(tmp_path):
        pass  # free again


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
