"""Gateways as they are run: processes of their own, which share one file of keys and one Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from rerankfleet.shared.settings import Settings
from tests.support.keys import KeyFile
from tests.support.server import free_port
from tests.support.wait import patient, wait_until

COMMAND = (sys.executable, "-m", "rerankfleet.shared.cli", "gateway")


def environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, **settings.environment()}


@contextmanager
def gateway_process(settings: Settings, log: Path) -> Iterator[httpx.Client]:
    """`rerank gateway` during the block. Yields a client."""
    port = free_port()
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "--port", str(port)], env=environment(settings), stderr=stderr
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=patient(30)) as http:
            wait_until(lambda: "listening" in log.read_text(), 60, "the gateway listens")
            yield http
            process.send_signal(signal.SIGTERM)
            process.wait(patient(20))
    finally:
        process.kill()
        process.wait(patient(20))


def test_two_gateways_have_one_rate_one_file_and_the_names_in_their_logs(
    change: Callable[..., Settings], key_file: KeyFile, tmp_path: Path
) -> None:
    key_file.add("slow", "rerank", rate="3/day")
    settings = change(api_keys_file=key_file.path)
    logs = tmp_path / "here.log", tmp_path / "there.log"
    with ExitStack() as opened:
        here, there = (opened.enter_context(gateway_process(settings, log)) for log in logs)
        # given a key that both know
        slow = key_file.headers("slow")
        answers = [http.get("/v1/presets", headers=slow) for http in (here, there) * 2]
        # then its rate is one
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        # when it is revoked, then both notice
        key_file.remove("slow")
        for http in (here, there):
            wait_until(
                lambda http=http: http.get("/v1/presets", headers=slow).status_code == 401,
                20,
                "the key is revoked",
            )
        for log in logs:
            assert "gone=['slow']" in log.read_text()
            assert key_file.keys["slow"] not in log.read_text()


@pytest.mark.parametrize(("text", "said"), [(None, "No such file"), ("[keys", "are not TOML")])
def test_with_a_wrong_file_no_gateway_starts(
    settings: Settings, tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "keys.toml"
    if text is not None:
        path.write_text(text)
    own = settings.model_copy(update={"api_keys_file": path})
    ran = subprocess.run(
        COMMAND, env=environment(own), capture_output=True, text=True, timeout=patient(60)
    )
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"rerank: the keys {path}")
    assert said in line
