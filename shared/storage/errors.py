"""What a disk or S3 raises -> our errors, which say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from rerankfleet.shared.addresses import printable
from rerankfleet.shared.errors import (
    CredentialsRefused,
    StorageRefused,
    StorageUnavailable,
    UsageError,
)
from rerankfleet.shared.storage.s3 import S3Failure, classify, is_s3_error


@contextmanager
def clear_errors(uri: str) -> Iterator[None]:
    """Turn what the disk or S3 raises while it works on `uri` into our errors."""
    uri = printable(uri)
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StorageRefused(f"{uri} does not exist", hint="check the path") from error
    except (IsADirectoryError, FileExistsError) as error:
        raise StorageRefused(f"{uri} is a folder, or one is needed", hint="name a file") from error
    except PermissionError as error:
        raise StorageRefused(
            f"{uri} may not be read or written", hint="check permissions"
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # a retry would not help
            raise UsageError(
                f"{uri} is not a path ({error.strerror})", hint="shorten it"
            ) from error
        raise StorageUnavailable(f"{uri}: {error.strerror or error}") from error
    except HTTPException as error:  # of a connection, past botocore
        raise StorageUnavailable(f"{uri}: {type(error).__name__}") from error
    except Exception as error:
        if not is_s3_error(error):
            raise
        raise _s3_error(uri, error) from error


def _s3_error(uri: str, error: Exception) -> Exception:
    failure, code = classify(error)
    if failure is S3Failure.MISSING:
        return StorageRefused(f"{uri} does not exist ({code})", hint="check bucket and key")
    if failure is S3Failure.REFUSED:
        return StorageRefused(f"{uri} was refused ({code})", hint="check the AWS credentials")
    if failure is S3Failure.CREDENTIALS:
        return CredentialsRefused(
            f"S3 refused the credentials for {uri} ({code})", hint="check the AWS credentials"
        )
    return StorageUnavailable(f"{uri}: {code}")
