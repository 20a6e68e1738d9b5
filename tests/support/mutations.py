"""Seeded changes of valid examples: what a file, a client or a broken writer may bring.

The same name gives the same changes. RERANK_TEST_FUZZ multiplies the number of cases, and
RERANK_TEST_FUZZ_SEED chooses others: `make fuzz`.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

SCALE = int(os.environ.get("RERANK_TEST_FUZZ", "1"))
SEED = int(os.environ.get("RERANK_TEST_FUZZ_SEED", "0"))

TOKENS = [
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1b[2J"),
    *(b"\\ud800", b"\\u0000", b"\\x", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":"),
    *(b"9" * 5000, b"1e999", b"-1e999", b"NaN", b"-0", b"0x10", b"null", b"true"),
    *(b"[" * 2000, b'{"a":' * 500, b"\r", b"\n", b"\r\n", b"\t", b";", b" " * 300, b"A" * 9000),
    *(b"../../", b"%00", b"s3://", b"file:///", b"data:image/png;base64,", b"PAR1", b"\x1f\x8b"),
]
"""Bytes that readers stumble over."""

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", " ", "0", "1e5", "\x00", "\ud800", "\ufeff", "\u202e", "é"),
    *("x" * 5000, "../../etc", "a/b", "null", "\r\n", "\x1b[31m", "http://", "s3://b/k", "data:,"),
    *([], {}, [[]], [None], [1, "a", None], {"": None}, {"a": {"b": [1]}}, ["x"] * 50),
]
"""Values of JSON, and of what JSON cannot say, that are seldom expected."""


class Mutations:
    """The changes of one case, drawn from its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.random = Random(name)

    def of_bytes(self, data: bytes, most: int = 4) -> bytes:
        """One to `most` changes of bytes: flipped, cut, doubled, moved, inserted, replaced."""
        for _ in range(self.random.randint(1, most)):
            data = self.random.choice(_OF_BYTES)(self.random, data)
        return data

    def of_value(self, value: Any, most: int = 3) -> Any:
        """One to `most` changes of a value of JSON: another type, a key or item more or less."""
        changed = [copy.deepcopy(value)]
        for _ in range(self.random.randint(1, most)):
            holder, key = self.random.choice(list(_places(changed)))
            self._change(holder, key)
        return changed[0]

    def of_json(self, value: Any) -> bytes:
        """The text of a changed value, itself changed in one case of three."""
        text = json.dumps(self.of_value(value), ensure_ascii=self.random.random() < 0.7)
        data = text.encode("utf-8", "surrogatepass")
        if self.random.random() < 0.2 and data.startswith(b"{") and len(data) > 2:
            data = b"{" + data[1:-1] + b"," + data[1:]  # every key twice
        return self.of_bytes(data, 2) if self.random.random() < 0.33 else data

    def pick(self, among: Sequence[Any]) -> Any:
        """One of several."""
        return self.random.choice(among)

    def _change(self, holder: Any, key: Any) -> None:
        kind = self.random.randrange(6)
        if kind == 0 and isinstance(holder, dict):
            holder[self.random.choice(["", "id", "extra", "\ud800", str(key) + "s"])] = holder[key]
        elif kind == 1 and len(holder) > 1:
            del holder[key]
        elif kind == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 3:
            for _ in range(self.random.choice([1, 5, 200])):
                holder[key] = self.random.choice([[holder[key]], {"a": holder[key]}])
        else:
            holder[key] = copy.deepcopy(self.random.choice(VALUES))


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every place of a nested value: what holds it, and its key or index there."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list) and depth < 50:
            yield from _places(value[key], depth + 1)


def _span(random: Random, data: bytes) -> tuple[int, int]:
    at = random.randrange(len(data) + 1)
    return at, min(len(data), at + random.choice([1, 2, 8, 64, 1000]))


def _flip(random: Random, data: bytes) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _remove(random: Random, data: bytes) -> bytes:
    at, end = _span(random, data)
    return data[:at] + data[end:]


def _double(random: Random, data: bytes) -> bytes:
    at, end = _span(random, data)
    return data[:end] + data[at:end] * random.choice([1, 1, 1, 30]) + data[end:]


def _move(random: Random, data: bytes) -> bytes:
    at, end = _span(random, data)
    rest, to = data[:at] + data[end:], random.randrange(len(data) - end + at + 1)
    return rest[:to] + data[at:end] + rest[to:]


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(TOKENS) + data[at:]


def _overwrite(random: Random, data: bytes) -> bytes:
    at, end = _span(random, data)
    return data[:at] + random.randbytes(min(end - at, 8)) + data[end:]


_OF_BYTES = (_flip, _flip, _cut, _remove, _double, _move, _insert, _overwrite)


def cases(surface: str, count: int) -> Iterator[Mutations]:
    """So many cases of a surface, more in a long run."""
    for number in range(count * SCALE):
        yield Mutations(f"{surface} {SEED}/{number}")


@contextmanager
def case(mutations: Mutations, given: object) -> Iterator[None]:
    """An error in the block names the case and what it was given."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"case {mutations.name}: {given!r}"[:3000])
        raise
