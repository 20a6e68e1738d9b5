"""Several hosts on one machine, whose links are cut, healed and made bad.

`Namespaces` gives each host a network of its own, with an address: what a cut link does to packets
is the kernel's. Only root may, on Linux. `Proxies` needs nothing: each host reaches the others
through connections that this process carries, holds back and drops.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Protocol

from tests.support.server import free_port
from tests.support.wait import patient

SLOW_S = 0.05
"""What a bad link adds to each packet."""
LOST_SHARE = 0.03
"""How many packets it loses: TCP sends them again."""
BLOCK_BYTES = 16 << 10
BLOCK_SLOW_S = 0.01
"""What a bad proxy adds to each run of bytes, of which a command takes several."""
BLOCK_LOST_SHARE = 0.002
"""How many of them end their connection: what TCP could not mend."""


class Network(Protocol):
    """Hosts by name. `server` is where one of them serves a port."""

    def start(
        self, host: str, command: Sequence[str], **options: object
    ) -> subprocess.Popen[bytes]:
        """Start a process on a host."""

    def bind(self, server: str) -> tuple[str, int]:
        """The address on which a server listens, on its own host."""

    def address(self, host: str, server: str) -> str:
        """`ADDRESS:PORT` by which a host reaches a server."""

    def cut(self, host: str) -> None:
        """From now on nothing reaches or leaves a host; nobody is told."""

    def heal(self, host: str) -> None:
        """Mend what was done to a host's link."""

    def spoil(self, host: str) -> None:
        """Make a host's link slow, and let it lose some of what it carries."""


# ---- network namespaces -------------------------------------------------------------------------

SUBNET = "198.18.77"
"""Reserved for tests of networks; the machine itself is .1, as `client`."""
PORT = 7000
LOCK = Path(tempfile.gettempdir()) / "rerank-test-hosts.lock"


@cache
def why_no_namespaces() -> str | None:
    """Why hosts cannot have networks of their own here; None where they can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if not shutil.which("ip"):
        return "iproute2 is not installed"
    tried = _ip("netns", "add", "rerank-try", check=False)
    _ip("netns", "delete", "rerank-try", check=False)
    return tried.stderr.decode().strip() or "refused" if tried.returncode else None


class Namespaces:
    """A bridge with a network namespace for each host."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._numbers = {"client": 1} | {host: number for number, host in enumerate(hosts, 11)}

    @classmethod
    @contextmanager
    def made(cls, hosts: Sequence[str]) -> Iterator[Namespaces]:
        """The network, while the block runs: one at a time on this machine."""
        network = cls(hosts)
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            network._remove()  # what a test that was killed left
            try:
                network._make()
                yield network
            finally:
                network._remove()

    def _make(self) -> None:
        _ip("link", "add", "name", "rrbridge", "type", "bridge")
        _ip("address", "add", f"{SUBNET}.1/24", "dev", "rrbridge")
        _ip("link", "set", "rrbridge", "up")
        for host, number in self._hosts():
            _ip("netns", "add", f"rr-{host}")
            inside = ["name", "eth0", "netns", f"rr-{host}"]
            _ip("link", "add", "name", f"rr-{host}", "type", "veth", "peer", *inside)
            _ip("link", "set", f"rr-{host}", "master", "rrbridge", "up")
            in_it = ("-netns", f"rr-{host}")
            _ip(*in_it, "address", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip(*in_it, "link", "set", device, "up")

    def _remove(self) -> None:
        for host, _ in self._hosts():
            _ip("link", "delete", f"rr-{host}", check=False)
            _ip("netns", "delete", f"rr-{host}", check=False)
        _ip("link", "delete", "rrbridge", check=False)

    def _hosts(self) -> Iterator[tuple[str, int]]:
        return ((host, number) for host, number in self._numbers.items() if host != "client")

    def start(
        self, host: str, command: Sequence[str], **options: object
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["ip", "netns", "exec", f"rr-{host}", *command], **options)  # type: ignore[call-overload,no-any-return]

    def bind(self, server: str) -> tuple[str, int]:
        return f"{SUBNET}.{self._numbers[server]}", PORT

    def address(self, host: str, server: str) -> str:
        return f"{SUBNET}.{self._numbers[server]}:{PORT}"

    def cut(self, host: str) -> None:
        _ip("link", "set", f"rr-{host}", "down")

    def heal(self, host: str) -> None:
        _ip("link", "set", f"rr-{host}", "up")
        subprocess.run(["tc", "qdisc", "delete", "dev", f"rr-{host}", "root"], capture_output=True)

    def spoil(self, host: str) -> None:
        """With netem packets are late and lost; without it the link is so narrow that they are."""
        netem = ["netem", "delay", f"{SLOW_S * 1000:g}ms", "10ms", "loss", f"{LOST_SHARE:%}"]
        narrow = ["tbf", "rate", "2mbit", "burst", "4kb", "latency", f"{SLOW_S * 1000:g}ms"]
        for kind in (netem, narrow):
            command = ["tc", "qdisc", "replace", "dev", f"rr-{host}", "root", *kind]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return
        raise AssertionError("this kernel has no qdisc that loses packets")


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, timeout=patient(20))


# ---- proxies ------------------------------------------------------------------------------------


class Proxies:
    """Every host reaches every server through a proxy of its own, in a thread of this process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: dict[str, int] = {}
        self._links: dict[tuple[str, str], _Link] = {}

    @classmethod
    @contextmanager
    def made(cls, hosts: Sequence[str]) -> Iterator[Proxies]:
        """The network, while the block runs."""
        network = cls()
        thread = threading.Thread(target=network._loop.run_forever, daemon=True)
        thread.start()
        try:
            yield network
        finally:
            network._loop.call_soon_threadsafe(network._loop.stop)
            thread.join(patient(10))

    def start(
        self, host: str, command: Sequence[str], **options: object
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, **options)  # type: ignore[call-overload,no-any-return]

    def bind(self, server: str) -> tuple[str, int]:
        return "127.0.0.1", self._servers.setdefault(server, free_port())

    def address(self, host: str, server: str) -> str:
        if (host, server) not in self._links:
            link = _Link(self._servers[server])
            asyncio.run_coroutine_threadsafe(link.open(), self._loop).result(patient(10))
            self._links[host, server] = link
        return f"127.0.0.1:{self._links[host, server].port}"

    def cut(self, host: str) -> None:
        for link in self._of(host):
            self._loop.call_soon_threadsafe(link.through.clear)

    def heal(self, host: str) -> None:
        for link in self._of(host):
            link.is_bad = False
            self._loop.call_soon_threadsafe(link.through.set)

    def spoil(self, host: str) -> None:
        for link in self._of(host):
            link.is_bad = True

    def _of(self, host: str) -> list[_Link]:
        return [link for pair, link in self._links.items() if host in pair]


class _Link:
    """The connections of one host to one server."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._random = random.Random(target)
        self._kept: set[asyncio.Task[None]] = set()
        self.through = asyncio.Event()
        self.through.set()
        self.is_bad = False
        self.port = 0

    async def open(self) -> None:
        """Listen on a port of its own."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.through.wait()
        try:
            other_reader, other = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, other), (other_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink, (writer, other)))
            self._kept.add(task)
            task.add_done_callback(self._kept.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        both: Sequence[asyncio.StreamWriter],
    ) -> None:
        with suppress(OSError):
            while data := await source.read(BLOCK_BYTES):
                await self.through.wait()
                if self.is_bad:
                    await asyncio.sleep(BLOCK_SLOW_S)
                    if self._random.random() < BLOCK_LOST_SHARE:
                        break
                sink.write(data)
                await sink.drain()
        for writer in both:
            writer.transport.abort() if self.is_bad else writer.close()


@contextmanager
def process(
    network: Network, host: str, command: Sequence[str], env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process on a host during the block."""
    with log.open("ab") as out:
        running = network.start(
            host, command, env={**os.environ, **env}, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(patient(30))
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
