"""The API keys of a gateway: whose each is, what its holder may do, and how often.

    [keys.search-team]
    hash = "sha256:5e88…"        # of a key that `rerank key` made; a list while it is replaced
    rights = ["rerank", "jobs"]
    rate = "600/minute"          # optional

The file holds hashes only. A key is 256 random bits, which nobody can guess: a plain SHA-256 of it
needs no salt and no slow hashing, as that of a password would.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import BeforeValidator, Field, ValidationError, field_validator

from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.content.validation import first_error
from rerankfleet.shared.errors import UsageError, dotted
from rerankfleet.shared.settings import Settings

LOOK_S = 1.0
"""How often the file is looked at: so soon a change is in force."""
NOBODY = "none"
"""How requests without a key are called in metrics: no key may have this name."""
SETTING = "RERANK_API_KEYS_FILE"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OF_THE_LIST = re.compile(r"key-[0-9a-f]{8}")
"""The names of the keys in RERANK_API_KEYS."""
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}

log = structlog.get_logger()


class Right(StrEnum):
    """What a key may do."""

    rerank = "rerank"
    """Have requests scored."""
    jobs = "jobs"
    """Make jobs and uploads, and see and change its own."""
    metrics = "metrics"
    """Read the metrics."""
    admin = "admin"
    """Everything, with the jobs and uploads of all keys."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests a key may send in any `window_s` seconds."""

    count: int
    window_s: int

    @classmethod
    def read(cls, text: str) -> Rate:
        """Of a text such as "600/minute". Raises ValueError."""
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError("expected a number per second, minute, hour or day, as in 600/minute")
        return cls(int(match[1]), _SECONDS[match[2]])

    def __str__(self) -> str:
        unit = next(name for name, seconds in _SECONDS.items() if seconds == self.window_s)
        article = "an" if unit == "hour" else "a"
        return f"{self.count:,} request{'s' * (self.count > 1)} {article} {unit}"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Whom a key belongs to, and what it may do. Never holds the key itself."""

    name: str
    rights: frozenset[Right]
    rate: Rate | None = None

    @property
    def is_admin(self) -> bool:
        """Whether jobs and uploads of all keys are open to it."""
        return Right.admin in self.rights

    def may(self, any_of: frozenset[Right]) -> bool:
        """Whether it has one of some rights."""
        return self.is_admin or bool(self.rights & any_of)

    @property
    def of_its_jobs(self) -> dict[str, Any]:
        """Options of the jobs and requests that are made with it."""
        return {"owner": self.name, "own_uploads_only": not self.is_admin}


EVERYONE = ApiKey("", frozenset(Right))
"""Whoever reaches a gateway without keys."""


# ---- made ---------------------------------------------------------------------------------------


def new_key() -> str:
    """A key that nobody can guess."""
    return f"rerank_{secrets.token_urlsafe(32)}"


def digest_of(key: str) -> str:
    """A key's hash as the file has it."""
    return f"sha256:{hashlib.sha256(key.encode(errors='replace')).hexdigest()}"


def table_of(name: str, key: str, rights: Sequence[str], rate: str | None) -> str:
    """The lines to add to the file. Raises UsageError for a name, right or rate that is wrong."""
    fields: dict[str, Any] = {"hash": digest_of(key), "rights": list(rights)}
    if rate is not None:
        fields["rate"] = rate
    checked = _checked(name, fields, "")
    listed = ", ".join(f'"{right}"' for right in Right if right in checked.rights)
    lines = [f"[keys.{_toml_name(name)}]", f'hash = "{fields["hash"]}"', f"rights = [{listed}]"]
    if rate is not None:
        lines.append(f'rate = "{rate}"')
    return "\n".join(lines)


def _toml_name(name: str) -> str:
    return f'"{name}"' if "." in name else name


# ---- the file -----------------------------------------------------------------------------------


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _known(value: Any) -> Any:
    """A list of rights. Raises ValueError."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError('expected a list, as in ["rerank", "jobs"]')
    for right in value:
        if right not in list(Right):
            raise ValueError(f"there is no right {right!r}, only {', '.join(Right)}")
    return value


class _Entry(Frozen):
    """A table of the file."""

    hash: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(min_length=1)
    rights: Annotated[frozenset[Right], BeforeValidator(_known)]
    rate: str | None = None

    @field_validator("hash")
    @classmethod
    def _are_hashes(cls, hashes: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(_HASH.fullmatch, hashes)):  # not shown: someone may have written a key
            raise ValueError("expected sha256: and 64 digits from 0 to f, as `rerank key` prints")
        return hashes

    @field_validator("rate")
    @classmethod
    def _is_a_rate(cls, rate: str | None) -> str | None:
        if rate is not None:
            Rate.read(rate)
        return rate


def read_key_file(path: Path) -> dict[str, ApiKey]:
    """The keys of a file by their hash. Raises UsageError, naming the key and its field."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"the keys {path} cannot be read: {error.strerror}"
        raise UsageError(why, hint=f"correct {SETTING}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the keys {path} are not TOML: {error}") from error
    tables = document.pop("keys", {})
    if document or not isinstance(tables, dict) or not tables:
        other = f"has the unknown entry {min(document)!r}" if document else "holds no key"
        raise UsageError(f"{path} {other}", hint="write a table per key: [keys.NAME]")
    keys: dict[str, ApiKey] = {}
    for name, fields in tables.items():
        entry = _checked(name, fields, f"{path}: ")
        rate = Rate.read(entry.rate) if entry.rate else None
        for digest in entry.hash:
            if digest in keys:
                raise UsageError(
                    f"{path}: the keys {keys[digest].name} and {name} have the same hash",
                    hint="make each a key of its own: rerank key NAME",
                )
            keys[digest] = ApiKey(name, entry.rights, rate)
    return keys


def _checked(name: str, fields: Any, place: str) -> _Entry:
    """A table of the file, validated. Raises UsageError."""
    if not _NAME.fullmatch(name) or _OF_THE_LIST.fullmatch(name) or name == NOBODY:
        raise UsageError(
            f"{place}a key cannot be called {name!r}",
            hint="use up to 64 letters, digits, dots, dashes and underscores; not none or key-…",
        )
    if not isinstance(fields, dict):
        raise UsageError(f"{place}{name} is no table", hint=f"write [keys.{name}]")
    known = list(_Entry.model_fields)
    for field in sorted(fields.keys() - set(known)):
        near = get_close_matches(field, known, n=1)
        raise UsageError(
            f"{place}the key {name} has the unknown field {field!r}",
            hint=f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}",
        )
    try:
        return _Entry.model_validate(fields)
    except ValidationError as error:
        path, message = first_error(error.errors())
        text = message.removeprefix("Value error, ")
        raise UsageError(f"{place}the key {name}: {dotted(path)}: {text}") from None


# ---- all keys -----------------------------------------------------------------------------------


class KeyRing:
    """The keys that are in force: those of RERANK_API_KEYS, which may do everything, and those of
    the file, which is read again when it changes. Raises UsageError for a file that is wrong."""

    def __init__(self, settings: Settings) -> None:
        plain = {digest_of(key.get_secret_value()) for key in settings.api_keys}
        self._plain = {
            digest: ApiKey(f"key-{digest.partition(':')[2][:8]}", frozenset(Right))
            for digest in plain
        }
        self._path = settings.api_keys_file
        self._stamp = self._stamp_now()
        self._keys = self._read()
        self._stop = threading.Event()

    def find(self, key: str) -> ApiKey | None:
        """Whose a key is. It is looked up by its hash: how long that takes says nothing of others,
        since nobody can choose a key by the hash that it will have."""
        return self._keys.get(digest_of(key))

    def start(self) -> None:
        """Begin to look at the file."""
        if self._path is not None:
            threading.Thread(target=self._watch, name="keys", daemon=True).start()

    def stop(self) -> None:
        """Look at it no more."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.refresh()
            except Exception:  # the next look may succeed: keys must stay revocable
                log.exception("the file of keys could not be looked at")

    def refresh(self) -> None:
        """Read the file if it has changed. What cannot be read changes nothing: it is logged."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            keys = self._read()
        except UsageError as error:
            log.error("the keys are not read again: those before stay in force", error=str(error))
            return
        before, now = ({key.name for key in ring.values()} for ring in (self._keys, keys))
        self._keys = keys
        log.info("the keys were read again", added=sorted(now - before), gone=sorted(before - now))

    def _stamp_now(self) -> tuple[int, ...] | None:
        """What changes with the file."""
        if self._path is None:
            return None
        try:
            file = self._path.stat()
        except OSError:
            return ()
        return (file.st_mtime_ns, file.st_size, file.st_ino)

    def _read(self) -> Mapping[str, ApiKey]:
        of_file = read_key_file(self._path) if self._path is not None else {}
        if twice := of_file.keys() & self._plain.keys():
            name = of_file[min(twice)].name
            raise UsageError(
                f"{self._path}: the key {name} is in RERANK_API_KEYS too, which may do everything",
                hint="leave it out of RERANK_API_KEYS",
            )
        return {**self._plain, **of_file}
