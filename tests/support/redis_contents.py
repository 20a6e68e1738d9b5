"""All that is in Redis under a prefix, read in one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from rerankfleet.shared.job_spec import JobSpec
from rerankfleet.shared.state.keys import Keys
from rerankfleet.shared.state.records import Job

READ = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local kind = redis.call('TYPE', key).ok
  local content = ''
  if kind == 'hash' then content = redis.call('HGETALL', key)
  elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'set' then content = redis.call('SMEMBERS', key)
  elseif kind == 'string' then content = redis.call('GET', key)
  end
  found[#found + 1] = {key, kind, content}
end
return found
"""

Contents = dict[str, tuple[str, Any]]
"""The type and the content of each key: a dict, a dict of scores, a set or a text."""


def reader(client: redis.Redis, prefix: str) -> Callable[[], Contents]:
    """Reads everything when it is called."""
    script = client.register_script(READ)
    return lambda: {key: (kind, _plain(kind, raw)) for key, kind, raw in script(args=[prefix])}


def _plain(kind: str, raw: Any) -> Any:
    if kind in ("hash", "zset"):
        return dict(zip(raw[::2], raw[1::2], strict=True))
    return set(raw) if kind == "set" else raw


def without_times(contents: Contents) -> dict[str, Any]:
    """What must be the same when nothing was done: no times, and no order of fields."""
    return {
        key: _timeless(kind, content)
        for key, (kind, content) in contents.items()
        if not key.endswith((":pulse", ":amnesty"))
    }


def _timeless(kind: str, content: Any) -> Any:
    if kind == "zset":
        return set(content)
    if kind == "hash":
        fields = content.items()
        return {f: _fields(v) for f, v in fields if not f.endswith(("_ms", "_until"))}
    return content


def _fields(value: str) -> object:
    return json.loads(value) if value.startswith("{") else value


KEPT = frozenset({"file", "token", "worker", "suspect", "alone", "deaths"})
"""What matters of a shard's record: no times."""


def scores_of(contents: Contents, key: str) -> dict[str, float]:
    """The members of a sorted set with their scores; none where there is no such key."""
    _, members = contents.get(key, ("zset", {}))
    return {member: float(score) for member, score in members.items()}


@dataclass(frozen=True)
class JobContents:
    """A job as Redis has it."""

    record: Job
    open: dict[str, dict[str, Any]]
    parts: dict[int, tuple[int, str]]

    @classmethod
    def of(cls, id_: str, contents: Contents, keys: Keys) -> JobContents:
        """Of everything that was read, what is of this job."""
        none = ("hash", {})
        facts, open_, parts = (
            contents.get(key, none)[1]
            for key in (keys.job(id_), keys.job_open(id_), keys.job_parts(id_))
        )
        records = {
            name: {key: value for key, value in json.loads(text).items() if key in KEPT}
            for name, text in open_.items()
        }
        committed = {}
        for start, text in parts.items():
            end, _, part = text.partition(" ")
            committed[int(start)] = (int(end), part)
        record = Job(id_, JobSpec.model_validate_json(facts["spec"]), facts, len(open_))
        return cls(record, records, committed)
