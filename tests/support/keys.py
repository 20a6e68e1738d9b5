"""Files of API keys, and clients that have one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from rerankfleet.producer.api_keys import new_key, table_of


class KeyFile:
    """A file of keys, and the keys that its hashes are of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: dict[str, str] = {}
        self._tables: dict[str, str] = {}

    def add(self, name: str, *rights: str, rate: str | None = None) -> str:
        """Make a key and write the file anew."""
        self.keys[name] = key = new_key()
        self._tables[name] = table_of(name, key, rights, rate)
        self._write()
        return key

    def remove(self, name: str) -> None:
        """Write the file without a key."""
        del self._tables[name]
        self._write()

    def _write(self) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text("\n\n".join(self._tables.values()) + "\n")
        fresh.rename(self.path)

    def headers(self, name: str) -> dict[str, str]:
        """Of a request with a key."""
        return {"Authorization": f"Bearer {self.keys[name]}"}

    @contextmanager
    def client(self, http: httpx.Client, name: str) -> Iterator[httpx.Client]:
        """A client like another one, with a key."""
        with httpx.Client(
            base_url=http.base_url, timeout=http.timeout, headers=self.headers(name)
        ) as client:
            yield client
