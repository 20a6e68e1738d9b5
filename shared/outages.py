"""Errors that escaped from a library: do they speak of the machine and the network, or of a bug?

Rooms turn what their libraries raise into our errors where it happens. This is the net below them,
for the two places at which a job would be paused as "a bug".
"""

from __future__ import annotations

from http.client import HTTPException

from rerankfleet.shared.errors import RerankError, StorageRefused, StorageUnavailable

_OF_THE_NETWORK = ("botocore", "boto3", "s3transfer", "urllib3", "httpx", "httpcore", "amqp")
"""Libraries whose errors say that somebody else did not answer as expected."""


def as_outage(error: Exception) -> RerankError | None:
    """Our error for one that escaped, or None where it is a bug.

    What a library of the network raises passes. What the system refuses (no file, no memory, no
    handles, no right) is waited for like a refusal of the storage, and so for a bounded time.
    """
    if isinstance(error, RerankError):
        return error
    named = f"{type(error).__name__}: {error}".rstrip(": ")
    if type(error).__module__.split(".")[0] in _OF_THE_NETWORK or _is_of_connection(error):
        return StorageUnavailable(named)
    if type(error).__module__.split(".")[0] == "kombu" or isinstance(error, OSError | MemoryError):
        return StorageRefused(named, hint="look at the machine's memory, disk and open files")
    return None


def _is_of_connection(error: Exception) -> bool:
    return isinstance(error, HTTPException | ConnectionError | TimeoutError)
