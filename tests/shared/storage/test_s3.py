"""What each error of S3 means for the caller."""

from __future__ import annotations

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
)
from urllib3.exceptions import ProtocolError

from rerankfleet.shared.errors import StorageUnavailable
from rerankfleet.shared.storage.errors import clear_errors
from rerankfleet.shared.storage.s3 import S3Failure, classify, is_s3_error


def answered(code: str, status: int, operation: str = "GetObject") -> ClientError:
    """An error with an answer of S3."""
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (answered("NoSuchKey", 404), S3Failure.MISSING),
        (answered("404", 404, "HeadObject"), S3Failure.MISSING),
        (ParamValidationError(report="Invalid bucket name"), S3Failure.MISSING),
        (answered("AccessDenied", 403), S3Failure.REFUSED),
        (answered("InvalidObjectState", 403), S3Failure.REFUSED),
        (answered("403", 403), S3Failure.REFUSED),
        (answered("403", 403, "HeadObject"), S3Failure.CREDENTIALS),
        (answered("400", 400, "HeadObject"), S3Failure.CREDENTIALS),
        (answered("ExpiredToken", 400), S3Failure.CREDENTIALS),
        (NoCredentialsError(), S3Failure.CREDENTIALS),
        (answered("SlowDown", 503), S3Failure.UNAVAILABLE),
        (answered("TooManyRequests", 429), S3Failure.UNAVAILABLE),
        (answered("RequestTimeout", 400), S3Failure.UNAVAILABLE),
        (answered("InternalError", 500), S3Failure.UNAVAILABLE),
        (ConnectionClosedError(endpoint_url="http://s3"), S3Failure.UNAVAILABLE),
        (ProtocolError("broken"), S3Failure.UNAVAILABLE),
    ],
)
def test_each_error_has_its_meaning(error, failure):
    assert is_s3_error(error)
    assert classify(error)[0] is failure


@pytest.mark.parametrize("kind", [HTTPClientError, ConnectionClosedError])
def test_a_connection_that_ends_without_an_answer_is_infrastructure(kind):
    error = kind(endpoint_url="http://s3", error="closed")
    assert error.response is None
    with (
        pytest.raises(StorageUnavailable, match=f"s3://pairs/x: {kind.__name__}"),
        clear_errors("s3://pairs/x"),
    ):
        raise error
