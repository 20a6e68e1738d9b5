"""A gateway before a fleet without a model, and one of a whole stack for all tests that need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import Hints
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.fleet import Fleet
from tests.support.fleet import MODEL, Worker, worker_row
from tests.support.gateway import running_gateway, working_fleet
from tests.support.keys import KeyFile
from tests.support.stack import Stack, StartStack
from tests.support.wait import patient

Clients = dict[str, httpx.Client]


@pytest.fixture
def http(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a gateway; nobody works behind it."""
    with running_gateway(settings) as client:
        yield client


@pytest.fixture
def keyed(change: Callable[..., Settings]) -> Iterator[httpx.Client]:
    """A client of a gateway that wants a key."""
    with running_gateway(change(api_keys=(SecretStr("one"), SecretStr("two")))) as client:
        yield client


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    """Two teams, one key for each other right, and one that may do everything."""
    keys = KeyFile(tmp_path / "keys.toml")
    for team in ("alice", "bob"):
        keys.add(team, "rerank", "jobs")
    for right in ("rerank", "jobs", "metrics", "admin"):
        keys.add(f"only-{right}", right)
    return keys


@pytest.fixture
def clients(change: Callable[..., Settings], key_file: KeyFile) -> Iterator[Clients]:
    """`clients["alice"]`: a client of a gateway with the key of alice."""
    with running_gateway(change(api_keys_file=key_file.path)) as http, ExitStack() as opened:
        yield {name: opened.enter_context(key_file.client(http, name)) for name in key_file.keys}


@pytest.fixture
def busy(fleet: Fleet, real_hints: Hints) -> None:
    """Three workers of two models, and something that waits."""
    fleet.beat(worker_row("w1", batch_tokens=512, batch_pairs=8, dtype="bf16", attention="flash"))
    fleet.beat(worker_row("w2", state="loading"))
    fleet.beat(
        worker_row("w3", "org/vl", supports_images=True, pairs_per_s=2.5, pairs=40, busy_share=0.5)
    )
    real_hints.shard(MODEL, Priority.interactive, "j", "0-1")


@pytest.fixture
def working(control: Control) -> Iterator[Worker]:
    """A fleet that works."""
    with working_fleet(control) as worker:
        yield worker


@pytest.fixture(scope="package")
def stack(start_stack: StartStack) -> Iterator[Stack]:
    """A running `rerank up` with its gateway."""
    with start_stack("pocket-text") as stack:
        yield stack


@pytest.fixture
def real(stack: Stack) -> Iterator[httpx.Client]:
    """A client of the stack's gateway."""
    with httpx.Client(base_url=stack.gateway, timeout=patient(60)) as client:
        yield client
