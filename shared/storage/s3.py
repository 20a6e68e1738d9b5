"""S3: the one way to make a client, and the one table of what its errors mean.

Each caller sets its own time-outs and retries, and words the errors for its own readers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any


class S3Failure(Enum):
    """What an error of S3 means for the caller."""

    MISSING = "there is no such bucket or object"
    REFUSED = "the request was refused, and would be again"
    CREDENTIALS = "the credentials are missing, expired or unknown"
    UNAVAILABLE = "S3 was busy or did not answer: a retry may succeed"


_BY_CODE = {
    **dict.fromkeys(
        ("404", "NoSuchBucket", "NoSuchKey", "NotFound", "ParamValidationError"),
        S3Failure.MISSING,  # the last one: no bucket can have that name
    ),
    **dict.fromkeys(
        (
            "CredentialRetrievalError",
            "ExpiredToken",
            "InvalidAccessKeyId",
            "InvalidToken",
            "NoCredentialsError",
            "PartialCredentialsError",
            "ProfileNotFound",
            "RequestTimeTooSkewed",
            "SSOTokenLoadError",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
            "TokenRetrievalError",
            "UnauthorizedSSOTokenError",
        ),
        S3Failure.CREDENTIALS,
    ),
    **dict.fromkeys(
        (
            "ConfigNotFound",
            "ConfigParseError",
            "InvalidConfigError",
            "InvalidRegionError",
            "NoRegionError",
            "UnknownEndpointError",
            "UnknownRegionError",
        ),
        S3Failure.REFUSED,  # by this machine's configuration
    ),
    **dict.fromkeys(
        ("BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout"),
        S3Failure.UNAVAILABLE,  # each has a status that would read as a refusal
    ),
}
_REFUSED_HEADS = ("400", "403")
"""A HEAD request is answered without a body: an expired token shows as its status alone."""
_RETRIED_STATUSES = (408, 429)


def new_client(
    *,
    attempts: int,
    connect_timeout_s: float,
    read_timeout_s: float,
    connections: int,
    connection_class: Callable[[type], type] | None = None,
) -> Any:
    """A client for S3.

    connections: how many of its requests may run at once.
    connection_class: makes a subclass of botocore's classes of connections, which it uses from now
        on in the whole process.
    """
    import boto3  # half a second of import that only s3:// users pay
    from botocore import awsrequest
    from botocore.config import Config

    if connection_class is not None:
        for pool in (awsrequest.AWSHTTPConnectionPool, awsrequest.AWSHTTPSConnectionPool):
            pool.ConnectionCls = connection_class(pool.ConnectionCls)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=connections,
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        tcp_keepalive=True,
    )
    # a session of its own: the default one keeps the credentials it found first
    return boto3.Session().client("s3", config=config)


def is_s3_error(error: Exception) -> bool:
    """Whether an error comes from the client, or from the connections below it."""
    return type(error).__module__.startswith(("botocore", "boto3", "urllib3"))


def classify(error: Exception) -> tuple[S3Failure, str]:
    """What an error of S3 means, and its code; that of an error without an answer is its class."""
    response = getattr(error, "response", None) or {}  # None where the connection broke
    code = str(response.get("Error", {}).get("Code") or type(error).__name__)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _REFUSED_HEADS and getattr(error, "operation_name", "").startswith("Head"):
        return S3Failure.CREDENTIALS, code
    if code in _BY_CODE:
        return _BY_CODE[code], code
    refused = 300 <= status < 500 and status not in _RETRIED_STATUSES
    return (S3Failure.REFUSED if refused or code == "AccessDenied" else S3Failure.UNAVAILABLE), code
