"""A gateway before a fleet without a model."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from rerankfleet.shared.settings import Settings
from tests.support.gateway import running_gateway


@pytest.fixture
def http(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a gateway; nobody works behind it."""
    with running_gateway(settings) as client:
        yield client
