"""Everything that can go wrong, as one tree.

Each class knows its code (a word for machines), its HTTP status and whether a retry may succeed.
A message says what was wrong and what was expected; the hint says what to do, in words that fit the
command line, Python and HTTP alike: what to type is in `command`, which the command line alone
shows. The path leads to the field that is wrong; how it is written is decided where the error is
shown: `documents.3.image.0` on the command line and in lines of output, `documents[3].image[0]`
over HTTP.

Codes are from fixed lists: a class's own, or for an ItemError one of ITEM_CODES. docs/errors.md
says what each means.

    RerankError
    ├── UsageError                422  the caller must change something, before any work starts
    │   ├── InvalidOption         422  an option of a job that is wrong
    │   ├── TooLarge              413  more bytes or documents than one request may have
    │   ├── UnknownModel          404  no such model, or nothing in the fleet serves it
    │   ├── UnknownJob            404
    │   │   └── UnreadableJob     409  another version of this software wrote it
    │   ├── NotAllowed            403  a bucket, host or folder that was not allowed
    │   ├── StorageRefused        422  the storage has no such object, or does not allow it
    │   │   ├── ObjectMissing     422  there is no such object
    │   │   └── CredentialsRefused 403 missing, expired or refused: no item is to blame
    │   ├── Damaged               422  what another process of the fleet wrote cannot be read
    │   ├── OutputExists          409  would overwrite; needs --force
    │   ├── KeyConflict           409  the same job key with another input or other options
    │   ├── InputChanged          409  the input is not the one that the job was made from
    │   └── WrongState            409  not possible in the job's state
    ├── ItemError                 422  a line or a pair cannot be scored: an outcome
    ├── Overloaded                429  the interactive queue is over its limit; retry later
    ├── Unavailable               503  infrastructure: retried with back-off, never blamed on items
    │   ├── QueueUnavailable           Redis does not answer
    │   ├── StorageUnavailable         the object store or disk does not answer
    │   │   ├── StorageFull       507  a quota or the disk has no room: more may be free later
    │   │   ├── DraftsLost             what was to be published is gone: it is written again
    │   │   └── PartLost               a committed part is gone: its shard is scored again
    │   └── NoWorker                   no worker serves this model
    │       └── ModelLoading           its workers are still loading it
    ├── CallerLeft                499  the client closed its connection
    ├── DeadlineExceeded          504  an interactive request ran out of time
    └── EngineError               500  the device or the model
        ├── OutOfDeviceMemory          a pack did not fit: it is halved
        ├── DeviceBroken               it fails on any pair: the process must exit
        └── ModelRefused               the model is not a Qwen3 reranker, or failed its self-test
"""

from __future__ import annotations

from collections.abc import Callable

ITEM_CODES = {
    # requests and lines of input
    "malformed_line": "the line is not a JSON object in UTF-8",
    "line_too_long": "the line is longer than `RERANK_MAX_LINE_BYTES`",
    "invalid_request": "a field of the request is wrong",
    "invalid_document": "a field of the document is wrong",
    "invalid_text": "a text holds half a surrogate pair",
    "empty_query": "the query has neither text nor images",
    "no_documents": "the request has no documents",
    "too_many_documents": "more documents than `RERANK_MAX_DOCUMENTS_PER_REQUEST`",
    # images of a catalog
    "no_image": "the row has no image",
    "no_id": "a `data:` URI in a catalog needs an id",
    # images
    "not_found": "there is no such file or object",
    "refused_source": "the settings do not permit reading this address",
    "unreadable": "the image may not or cannot be read: refused, or an answer without any use",
    "fetch_failed": "the image could not be read; a retry may succeed",
    "timeout": "the image was not read in time; a retry may succeed",
    "too_large": "the file is larger than `RERANK_IMAGE_BYTES_MAX`",
    "invalid_image": "the file is empty, truncated or damaged, or the row of a catalog is wrong",
    "unsupported_image": "not an image of a format, or with pixels, that is read",
    "image_too_large": "too many pixels",
    "decode_timeout": "the image was not decoded in time; a retry may succeed",
    "decode_crashed": "the process that decoded the image died",
    "too_many_images": "more images in one query or document than are read",
    "too_many_pixels": "more pixels in one interactive request than are decoded",
    "frames_differ": "the frames of a video have different shapes",
    "low_quality": "rejected: the image's quality is below the job's threshold",
    "low_quality_query": "rejected: so is that of the query's image, and with it the whole request",
    # prompts and scores
    "pictures_not_read": "the model reads text only",
    "max_length_too_small": "`max_length` leaves no room beside the template",
    "out_of_memory": "this pair alone does not fit into the device's memory",
    "non_finite_score": "the model's score is not a number",
    "no_such_part": "the pair has no such part to score by itself",
    "engine_error": "the model failed on this pair",
    "worker_died": "the worker died twice while it scored this pair alone",
    "cancelled": "the job was cancelled before; a retry scores it",
}
"""Codes of what cannot be scored, each with its meaning. No other code is ever used."""

Path = tuple[str | int, ...]
"""Where a value is in a request: `("documents", 3, "image", 0)`."""


def dotted(path: Path) -> str:
    """A path as lines of output and the command line show it: `documents.3.image.0`."""
    return ".".join(map(str, path))


def _writable(text: str) -> str:
    """The text with `?` for halves of characters, as names of columns and files may hold them:
    no record, log, answer or terminal takes those."""
    return text.encode(errors="replace").decode()


class RerankError(Exception):
    """Root of all errors raised on purpose. `str(error)` is its text and what to do."""

    code = "error"
    http_status = 500
    retryable = False
    path: Path = ()
    """The field that is wrong, where there is one."""
    names_field = False
    """Whether the message names the field already: then no path is shown before it."""

    def __init__(
        self, message: str, *, hint: str = "", path: Path | None = None, command: str = ""
    ) -> None:
        self.message = _writable(message)
        self.hint = _writable(hint)
        super().__init__(self.message)
        self.command = command
        if path is not None:
            self.path = path

    def text(self, render: Callable[[Path], str] = dotted) -> str:
        """The message, after the field that it is about."""
        named = self.names_field or not self.path
        return self.message if named else f"{render(self.path)}: {self.message}"

    def __str__(self) -> str:
        return f"{self.text()}: {self.hint}" if self.hint else self.text()

    @property
    def shell_hint(self) -> str:
        """The hint as the command line shows it: with what to type."""
        return f"{self.hint} ({self.command})" if self.command else self.hint

    @property
    def at_the_shell(self) -> str:
        """What the command line shows: the text, what to do, and what to type for it."""
        return f"{self.text()}: {self.shell_hint}" if self.hint else self.text()


class UsageError(RerankError):
    """The caller must change something."""

    code = "invalid"
    http_status = 422


class InvalidOption(UsageError):
    """An option of a job is wrong: the one that is named, or a value `inside` it."""

    names_field = True

    def __init__(self, option: str, message: str, *, hint: str = "", inside: Path = ()) -> None:
        super().__init__(message, hint=hint, path=(option, *inside))


class TooLarge(UsageError):
    """More bytes than one request may have."""

    code = "too_large"
    http_status = 413


class UnknownModel(UsageError):
    """The model cannot be found, or no worker serves it."""

    code = "unknown_model"
    http_status = 404
    path = ("model",)
    names_field = True


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


class StorageRefused(UsageError):
    """The object store or the disk has no such object, or does not allow what was asked of it."""


class Damaged(UsageError):
    """What another process of the fleet wrote can no longer be read."""


class ObjectMissing(StorageRefused):
    """There is no such object, or file."""


class CredentialsRefused(StorageRefused):
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
    """Not possible in the job's state."""

    code = "wrong_state"
    http_status = 409


class ItemError(RerankError):
    """One input line or one pair that cannot be scored. Kept as its outcome, beside the scores.

    `code` is one of ITEM_CODES. `quality`, 0 to 1, is that of the image that was too poor, `image`
    the address of the image that is wrong, without secrets.
    """

    http_status = 422

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        path: Path = (),
        names_field: bool = False,
        quality: float | None = None,
        image: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, path=path)
        self.code = code
        self.names_field = names_field
        self.quality = quality
        self.image = image

    def at(self, *path: str | int) -> ItemError:
        """The same error of a request in which the field has another path."""
        return ItemError(
            self.code,
            self.message,
            hint=self.hint,
            path=path,
            quality=self.quality,
            image=self.image,
        )

    def about(self, image: str) -> ItemError:
        """The same error, of the image at an address, which is without secrets."""
        return ItemError(
            self.code,
            self.message,
            hint=self.hint,
            path=self.path,
            names_field=self.names_field,
            quality=self.quality,
            image=image,
        )


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


class StorageFull(StorageUnavailable):
    """A quota or the disk has no room: it may have when something is removed or expires."""

    code = "storage_full"
    http_status = 507


class DraftsLost(StorageUnavailable):
    """What was decided can no longer be published: it must be written again."""


class PartLost(StorageUnavailable):
    """The part of a committed shard, which begins at the item `start`, is gone or damaged: the
    shard must be scored again."""

    def __init__(self, message: str, *, start: int) -> None:
        super().__init__(message)
        self.start = start


class NoWorker(Unavailable):
    """No worker serves this model now."""

    code = "no_worker"


class ModelLoading(NoWorker):
    """The workers of this model are loading it."""

    code = "model_loading"


class CallerLeft(RerankError):
    """The client closed its connection before the answer."""

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
    """The device fails on any pair, even on one that it scored before: no pair is to blame."""

    code = "device_broken"
    retryable = True


class ModelRefused(EngineError):
    """The model cannot be served: not a Qwen3 reranker, or its self-test failed."""

    code = "model_refused"
