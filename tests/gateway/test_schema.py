"""Whatever the OpenAPI document permits, and what it does not: never an error of the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error

from tests.support.gateway import running_gateway, working_fleet

EXAMPLES = 8


@pytest.fixture
def api(change, control) -> Iterator[schemathesis.BaseSchema]:
    """The document of a gateway before a working fleet."""
    with working_fleet(control), running_gateway(change(interactive_deadline_s=20)) as http:
        yield schemathesis.openapi.from_url(f"{http.base_url}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_no_request_is_an_error_of_the_server(case):
    case.call_and_validate(checks=[not_a_server_error], timeout=30)
