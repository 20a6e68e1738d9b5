"""Everything that can go wrong, as one tree.

Each class knows its code (a word for machines), its HTTP status and whether trying again can help.
A message says what was wrong and what was expected; the hint says what to do.

    RerankError
    ├── UsageError                422  the caller must change something, before any work starts
    │   ├── InvalidOption         422  an option of a job that is wrong
    │   ├── TooLarge              413  more bytes or documents than one request may have
    │   ├── UnknownModel          404  no such model, or nothing in the fleet serves it
    │   ├── UnknownJob            404
    │   │   └── UnreadableJob     409  another version of this software wrote it
    │   ├── NotAllowed            403  a bucket, host or folder that was not allowed
    │   ├── CredentialsRefused    403  missing, expired or refused: no item is to blame
    │   ├── OutputExists          409  would overwrite; needs --force
    │   ├── KeyConflict           409  the same job key with another input or other options
    │   ├── InputChanged          409  the input is not the one that the job was made from
    │   └── WrongState            409  a verb that the job's state does not permit
    ├── ItemError                 422  a line or a pair cannot be scored: an outcome, no crash
    ├── Overloaded                429  the interactive queue is over its limit; retry later
    ├── Unavailable               503  infrastructure: retried with back-off, never blamed on items
    │   ├── QueueUnavailable           Redis does not answer
    │   ├── StorageUnavailable         the object store or disk does not answer
    │   └── NoWorker                   nobody serves this model
    │       └── ModelLoading           its workers are not there yet
    ├── CallerLeft                499  whoever asked went away: nobody reads this
    ├── DeadlineExceeded          504  an interactive request ran out of time
    └── EngineError               500  the device or the model
        ├── OutOfDeviceMemory          a pack did not fit; answered by halving it
        ├── DeviceBroken               it fails on any pair: the process must end
        └── ModelRefused               the model is not a Qwen3 reranker, or failed its self-test
"""

from __future__ import annotations


class RerankError(Exception):
    """Root of all errors raised on purpose. `str(error)` is the message and what to do."""

    code = "error"
    http_status = 500
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}: {hint}" if hint else message)
        self.message = message
        self.hint = hint


class UsageError(RerankError):
    """The caller must change something."""

    code = "invalid"
    http_status = 422


class InvalidOption(UsageError):
    """An option of a job is wrong; `option` is its name."""

    def __init__(self, option: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.option = option


class TooLarge(UsageError):
    """More bytes than one request may have."""

    code = "too_large"
    http_status = 413


class UnknownModel(UsageError):
    """The model cannot be found, or no worker serves it."""

    code = "unknown_model"
    http_status = 404


class UnknownJob(UsageError):
    """No job has this id."""

    code = "unknown_job"
    http_status = 404


class UnreadableJob(UnknownJob):
    """The job is there, but another version of this software wrote it."""

    code = "unreadable_job"
    http_status = 409


class NotAllowed(UsageError):
    """The bucket, host or folder is not on the allow-list."""

    code = "not_allowed"
    http_status = 403


class CredentialsRefused(UsageError):
    """The credentials are missing, expired or refused: no item is to blame, the job must pause."""

    code = "credentials_refused"
    http_status = 403


class OutputExists(UsageError):
    """Writing would replace something that is already there."""

    code = "output_exists"
    http_status = 409


class KeyConflict(UsageError):
    """The job key is taken by a job with another input or other options."""

    code = "key_conflict"
    http_status = 409


class InputChanged(UsageError):
    """The input is no longer what it was when the job was made."""

    code = "input_changed"
    http_status = 409


class WrongState(UsageError):
    """The job's state does not permit this verb."""

    code = "wrong_state"
    http_status = 409


class ItemError(RerankError):
    """One input line or one pair that cannot be scored. Kept as its outcome, beside the scores.

    `quality`, 0 to 1, is that of the image that was too poor.
    """

    http_status = 422

    def __init__(
        self, code: str, message: str, *, hint: str = "", quality: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.quality = quality


class Overloaded(RerankError):
    """The interactive queue is over its limit."""

    code = "overloaded"
    http_status = 429
    retryable = True


class Unavailable(RerankError):
    """Infrastructure that does not answer."""

    code = "unavailable"
    http_status = 503
    retryable = True


class QueueUnavailable(Unavailable):
    """Redis does not answer."""

    code = "queue_unavailable"


class StorageUnavailable(Unavailable):
    """The object store or the disk does not answer."""

    code = "storage_unavailable"


class NoWorker(Unavailable):
    """Nobody serves this model now."""

    code = "no_worker"


class ModelLoading(NoWorker):
    """The workers of this model are loading it."""

    code = "model_loading"


class CallerLeft(RerankError):
    """Whoever asked went away before the answer: nobody reads this."""

    code = "caller_left"
    http_status = 499


class DeadlineExceeded(RerankError):
    """An interactive request ran out of time."""

    code = "deadline_exceeded"
    http_status = 504
    retryable = True


class EngineError(RerankError):
    """The device or the model failed."""

    code = "engine_error"


class OutOfDeviceMemory(EngineError):
    """A pack did not fit into the device's memory."""

    code = "out_of_device_memory"
    retryable = True


class DeviceBroken(EngineError):
    """The device fails on any pair, on one that it scored before too: no pair is to blame."""

    code = "device_broken"
    retryable = True


class ModelRefused(EngineError):
    """The model cannot be served: not a Qwen3 reranker, or its self-test failed."""

    code = "model_refused"
