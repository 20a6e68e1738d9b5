"""`rerank doctor`: checks this machine, the fleet and a model, and suggests remedies.

Loads no torch: versions are read from package metadata, GPUs from nvidia-smi.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby

from rerankfleet import __version__
from rerankfleet.shared import advice
from rerankfleet.shared.addresses import file_uri, local_path, mask
from rerankfleet.shared.errors import RerankError
from rerankfleet.shared.settings import Settings, load_settings
from rerankfleet.shared.shown import amount
from rerankfleet.shared.state.connection import connect
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.ledger import Kind
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.disk import free_bytes
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.workers.diagnostics.checks import Check, broken, failed, ok, warning
from rerankfleet.workers.engine.compiler import NO_COMPILER, REMEDY, has_compiler

SKEW_S = 2.0
"""A clock that is further off confuses signed addresses and logs."""
NEARLY = 0.9
"""Share of a quota above which it is nearly reached."""
REDIS_WITH_WAITAOF = (7, 2)

_SCORES = ("torch", "transformers", "tokenizers", "safetensors")
_OPTIONAL = {
    "pillow": ("images cannot be decoded", "pip install 'rerankfleet[worker]'"),
    "flash-attn": ("torch's own attention kernels are used", ""),
    "av": ("video files are not read; lists of frames are", ""),
}


def examine(model: str | None = None) -> list[Check]:
    """All findings, in the order in which to fix them."""
    return [*_of_install(), *_of_fleet(), *(_of_model(model) if model else ())]


# ---- this machine -------------------------------------------------------------------------------


def _of_install() -> Iterator[Check]:
    versions = {name: _version(name) for name in _SCORES}
    if missing := [name for name, number in versions.items() if number is None]:
        yield warning(
            "scoring",
            f"{', '.join(missing)} not installed: this machine can submit, but not score",
            "pip install 'rerankfleet[worker]' where a worker is to run",
        )
    else:
        yield ok("scoring", ", ".join(f"{name} {number}" for name, number in versions.items()))
    gpus = _gpus()
    yield _of_gpus(gpus, versions["torch"])
    if gpus:
        yield _of_compiler()
    for name, (without, remedy) in _OPTIONAL.items():
        known = _version(name)
        if known is None and remedy:
            yield warning(name, f"not installed: {without}", remedy)
        else:
            yield ok(name, known or f"not installed: {without}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _of_gpus(gpus: Sequence[str], torch: str | None) -> Check:
    if not gpus:
        return ok("GPUs", "none: workers here score on the CPU")
    names = ", ".join(gpus)
    if torch is not None and torch.endswith("+cpu"):
        return broken("GPUs", f"{names}; torch {torch} cannot use them", "install torch for CUDA")
    return ok("GPUs", names)


def _of_compiler() -> Check:
    if has_compiler():
        return ok("C compiler", "kernels between matrix products are compiled")
    return warning("C compiler", f"{NO_COMPILER}: workers run slower", REMEDY)


def _gpus() -> list[str]:
    """The names of the GPUs that the driver sees."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []


# ---- settings, storage, Redis -------------------------------------------------------------------


def _of_fleet() -> Iterator[Check]:
    try:
        settings = load_settings()
    except RerankError as error:
        yield failed("settings", error)
        return
    yield ok("settings", f"storage {settings.storage_uri}, key prefix {settings.key_prefix}")
    yield from _of_folders(settings)
    yield _of_storage(settings)
    try:
        client = connect(settings)
    except RerankError as error:
        yield failed("Redis", error)
        return
    with client:
        store = Store(client, settings)
        yield from _of_redis(store, settings)
        yield from _of_quotas(store, settings)
        yield from _of_work(store, settings)


def _of_folders(settings: Settings) -> Iterator[Check]:
    for root in settings.allowed_roots:
        if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
            yield warning(
                "allowed roots",
                f"{root} is no folder that can be read here",
                "create it, mount it, or take it out of RERANK_ALLOWED_ROOTS",
            )
    folders = [settings.state_dir]
    if settings.storage_uri.startswith("file:"):
        storage = local_path(settings.storage_uri)
        folders = [storage] if storage.is_relative_to(settings.state_dir) else [*folders, storage]
    for folder in folders:
        free = free_bytes(folder)
        found = f"{amount(free)} free at {folder}"
        is_storage = settings.storage_uri == file_uri(folder)
        if is_storage and free < settings.free_bytes_min:
            yield broken("disk", f"{found}: uploads and new jobs are refused", "make room")
        elif free < 2 * settings.free_bytes_min:
            yield warning("disk", found, "make room")
        else:
            yield ok("disk", found)


def _of_quotas(store: Store, settings: Settings) -> Iterator[Check]:
    kinds: tuple[tuple[Kind, int], ...] = (
        ("uploads", settings.uploads_bytes_max),
        ("jobs", settings.jobs_bytes_max),
    )
    for kind, most in kinds:
        used = store.ledger.used(kind)
        found = f"{kind} keep {amount(used)}" + (f" of {amount(most)} at most" if most else "")
        if most and used > NEARLY * most:
            remedy = f"wait until some expire, or raise RERANK_{kind.upper()}_BYTES_MAX"
            yield warning("quota", found, remedy)
        else:
            yield ok("quota", found)


def _of_storage(settings: Settings) -> Check:
    """Write, read and remove a small object."""
    objects, probe = Objects(settings), uuid.uuid4().hex.encode()
    folder = objects.at("jobs", f"doctor-{probe.decode()}")
    uri = f"{folder}/probe"
    try:
        objects.write(uri, probe)
        if objects.read(uri) != probe:
            return broken("storage", f"{uri} is not what was written", "check the storage")
        objects.delete_tree(folder)
    except RerankError as error:
        return failed("storage", error)
    return ok("storage", "an object was written, read and removed")


def _of_redis(store: Store, settings: Settings) -> Iterator[Check]:
    info = store.server_info()
    name, number = info.get("server_name", "redis"), info.get("redis_version", "?")
    if "valkey_version" in info:
        name, number = "valkey", info["valkey_version"]
    said = f"{name} {number} at {mask(settings.redis_address)}"
    if _numbers(str(info.get("redis_version", ""))) < REDIS_WITH_WAITAOF:
        yield warning(
            "Redis",
            f"{said}: it cannot say when a job is on disk",
            "use Redis 7.2 or Valkey, or newer",
        )
    else:
        yield ok("Redis", said)
    yield from _of_persistence(info)
    skew = time.time() - store.now_ms() / 1000
    if abs(skew) > SKEW_S:
        yield warning(
            "clock", f"{skew:+.1f} s from the Redis server's", "synchronise the clocks (NTP)"
        )
    else:
        yield ok("clock", "as the Redis server's")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())


def _of_persistence(info: dict[str, object]) -> Iterator[Check]:
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        yield broken("append-only file", "it cannot be written", "look at the server's disk")
    elif str(info.get("aof_enabled")) != "1":
        yield warning(
            "append-only file",
            "off: jobs are lost when Redis restarts",
            "set appendonly yes (redis-cli CONFIG SET appendonly yes, and in its configuration)",
        )
    else:
        yield ok("append-only file", "on")
    policy, limit = str(info.get("maxmemory_policy")), int(str(info.get("maxmemory", 0)))
    remedy = "set maxmemory-policy noeviction: nothing else may be dropped silently"
    if policy == "noeviction":
        yield ok("maxmemory-policy", policy)
    elif limit:
        yield broken("maxmemory-policy", f"{policy} at {limit >> 20:,} MiB: keys vanish", remedy)
    else:
        yield warning("maxmemory-policy", f"{policy}, without a limit yet", remedy)


# ---- who works ----------------------------------------------------------------------------------


def _of_work(store: Store, settings: Settings) -> Iterator[Check]:
    fleet = store.snapshot()
    silent_s, workers = fleet.coordinator_silent_s, fleet.workers
    if symptoms := list(advice.of_coordinator(silent_s, settings.tick_s)):
        yield from (broken("coordinator", one.evidence, one.remedy) for one in symptoms)
    else:
        yield ok("coordinator", f"it gave a sign of life {silent_s:.0f} s ago")
    if not workers:
        yield warning("workers", "there are none now", "start one: rerank worker --model M")
    for model, rows in groupby(sorted(workers, key=lambda w: w.model), key=lambda w: w.model):
        yield _of_version(model, list(rows))
    for one in advice.of_models(workers, fleet.open_shards):
        worse = broken if one.symptom == "no worker" else warning
        yield worse(one.symptom, one.evidence, one.remedy)
    for worker in workers:
        for one in advice.of_worker(worker):
            yield warning(one.symptom, one.evidence, one.remedy)


def _of_version(model: str, workers: Sequence[WorkerRow]) -> Check:
    others = sorted({w.version for w in workers if w.version and w.version != __version__})
    states = ", ".join(
        f"{len(list(rows))} {state}" for state, rows in groupby(sorted(w.state for w in workers))
    )
    if others:
        return warning(
            "workers",
            f"{model}: {states}; of version {', '.join(others)}, this is {__version__}",
            "install the same version everywhere",
        )
    return ok("workers", f"{model}: {states}")


def _of_model(model: str) -> list[Check]:
    if _version("tokenizers") is None:
        return [broken("model", "tokenizers is not installed", "pip install 'rerankfleet[worker]'")]
    from rerankfleet.workers.diagnostics.model_check import check_model

    return list(check_model(model))
