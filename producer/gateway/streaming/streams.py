"""Responses that are read while they are sent: lines of results, files of an output."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rerankfleet.producer.gateway.admission import Gateway, taken
from rerankfleet.shared.formats.output import dump_line

BLOCK_BYTES = 64 << 10
"""Lines are sent in blocks of about this size."""
CHECK_S = 0.25
"""How often a stream without lines checks whether its client is still there."""


class Streamed(StreamingResponse):
    """Blocks, sent as they are read. An error in the first block is answered with its own status.
    When the client leaves, no more are read; an empty block only checks for that."""

    def __init__(
        self,
        gateway: Gateway,
        blocks: Iterator[bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._gateway = gateway
        self._blocks = blocks
        super().__init__(self._sent(), media_type=media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises Overloaded."""
        with taken(self._gateway.streams, "results"):
            self._first = await self._next()
            await super().__call__(scope, receive, send)

    async def _sent(self) -> AsyncIterator[bytes]:
        block = self._first
        while block is not None:
            if block:
                yield block
            block = await self._next()  # a client that left ends it here

    async def _next(self) -> bytes | None:
        return await self._gateway.in_thread(next, self._blocks, None)


def stream_lines(
    gateway: Gateway, lines: Iterable[dict[str, Any] | None], limit: int | None = None
) -> Streamed:
    """Up to `limit` lines. None stands for a line that is left out."""
    return Streamed(gateway, _blocks(lines, limit), "application/x-ndjson")


def _blocks(lines: Iterable[dict[str, Any] | None], limit: int | None) -> Iterator[bytes]:
    """Up to `limit` lines in blocks; an empty block where there was no line for CHECK_S."""
    block, left, began_s = bytearray(), limit, time.monotonic()
    for line in lines:
        if line is not None:
            block += dump_line(line)
            left = None if left is None else left - 1
        if left == 0:
            break
        if len(block) >= BLOCK_BYTES or time.monotonic() - began_s > CHECK_S:
            yield bytes(block)
            block.clear()
            began_s = time.monotonic()
    if block:
        yield bytes(block)
