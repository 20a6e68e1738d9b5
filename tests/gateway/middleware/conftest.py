"""A gateway with API keys."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from pydantic import SecretStr

from tests.support.gateway import running_gateway


@pytest.fixture
def keyed(change) -> Iterator[httpx.Client]:
    """A client of a gateway that wants a key."""
    with running_gateway(change(api_keys=(SecretStr("one"), SecretStr("two")))) as client:
        yield client
