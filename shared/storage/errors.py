"""What a disk or S3 raises -> our errors, which say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from rerankfleet.shared.addresses import printable
from rerankfleet.shared.errors import (
    CredentialsRefused,
    ObjectMissing,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
    UsageError,
)
from rerankfleet.shared.storage.s3 import S3Failure, classify, is_s3_error

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The disk is full, or what its user may have of it."""


def missing(uri: str) -> ObjectMissing:
    """What is raised of an object that is not there, or that is to be as if it were not."""
    return ObjectMissing(f"{printable(uri)} does not exist", hint="check the address")


@contextmanager
def clear_errors(uri: str) -> Iterator[None]:
    """Turn what the disk or S3 raises while it works on `uri` into our errors."""
    uri = printable(uri)
    try:
        yield
    except OSError as error:
        raise _disk_error(uri, error) from error
    except HTTPException as error:  # of a connection, past botocore
        raise StorageUnavailable(f"{uri}: {type(error).__name__}") from error
    except Exception as error:
        if not is_s3_error(error):
            raise
        raise _s3_error(uri, error) from error


def _disk_error(uri: str, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ObjectMissing(f"{uri} does not exist", hint="check the path")
    if isinstance(error, IsADirectoryError | FileExistsError):
        return StorageRefused(f"{uri} is a folder, or one is needed", hint="name a file")
    if isinstance(error, PermissionError):
        return StorageRefused(f"{uri} may not be read or written", hint="check permissions")
    why = error.strerror or str(error)
    if error.errno == errno.ENAMETOOLONG:  # a retry would not help
        return UsageError(f"{uri} is not a path ({why})", hint="shorten it")
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return StorageRefused(
            f"{uri} leads through links without an end, or to one that was put there meanwhile",
            hint="check the links",
        )
    if error.errno in FULL:
        return StorageFull(
            f"{uri} cannot be written: its disk is full ({why})",
            hint="make room on it; what waits for that goes on by itself",
        )
    return StorageUnavailable(f"{uri}: {why}")


def _s3_error(uri: str, error: Exception) -> Exception:
    failure, code = classify(error)
    if failure is S3Failure.MISSING:
        return ObjectMissing(f"{uri} does not exist ({code})", hint="check bucket and key")
    if failure is S3Failure.REFUSED:
        return StorageRefused(f"{uri} was refused ({code})", hint="check the AWS credentials")
    if failure is S3Failure.CREDENTIALS:
        return CredentialsRefused(
            f"S3 refused the credentials for {uri} ({code})", hint="check the AWS credentials"
        )
    return StorageUnavailable(f"{uri}: {code}")
