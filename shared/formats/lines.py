"""A line of input -> a slice of pairs; the outcomes of slices -> a line of output.

The text formats that users see. A malformed line is a slice with one failure, so that every
line of input gives one line of output, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

from pydantic import ValidationError

from rerankfleet.shared.calibration import Calibration
from rerankfleet.shared.content.content import Document, content_fields, few_fields
from rerankfleet.shared.content.outcomes import POOR_QUERY, Failure, Scored
from rerankfleet.shared.content.requests import ImageRun, RerankRequest, Slice
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.sub_scores import explain

FORMAT_HINT = (
    'write one JSON object a line: {"query": "...", "documents": ["...", {"id": "d1", "text": '
    '"..."}]}, optionally with "id", "instruction", "top_n", "metadata"'
)
CONTENT_HINT = (
    'a query or document is a string or {"text"?, "image"?: URI or list, "video"?: {"frames": '
    '[URI], "fps"?}}, or "frames"? instead of "video"; a document also with "id" and "metadata"'
)
LISTING_HINT = (
    'write one image a line: a URI or path, or {"image": URI, "id"?, "text"?}; or CSV or Parquet '
    "with the columns image, id, text"
)


FIELD_SHOWN = 100
"""Characters of a field's name in a message: names come from the input too."""


def raw_lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (bytes consumed, line without its end) per line; None for one over `max_bytes`.

    Holds one line at the most, whatever the file is.
    """
    while line := stream.readline(max_bytes + 1):
        consumed = len(line)
        if consumed <= max_bytes or line.endswith(b"\n"):
            yield consumed, line.rstrip(b"\r\n")
            continue
        while rest := stream.readline(1 << 20):
            consumed += len(rest)
            if rest.endswith(b"\n"):
                break
        yield consumed, None


def refuse_other_formats(head: Iterable[bytes | None], name: str) -> None:
    """Raise UsageError when none of a file's first lines is a JSON object."""
    lines = list(head)
    if not lines:
        raise UsageError(f"{name} is empty", hint=FORMAT_HINT)
    if not any(line is not None and _is_object(line) for line in lines):
        raise UsageError(f"{name} is not JSON Lines", hint=FORMAT_HINT)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def parse_line(number: int, raw: bytes | None, *, max_documents: int) -> Slice:
    """Turn line `number` (from 1) into a slice; what is wrong with it becomes its failure."""
    try:
        return _parse(number, raw, max_documents)
    except ItemError as error:
        failure = Failure(line=number, code=error.code, message=error.message, hint=error.hint)
        return Slice(line=number, id=_salvage_id(raw), failures=[failure])


def _parse(number: int, raw: bytes | None, max_documents: int) -> Slice:
    if raw is None:
        raise ItemError("line_too_long", "the line is too long", hint="RERANK_MAX_LINE_BYTES")
    return slice_of(number, _decode(raw), max_documents=max_documents)


def slice_of(number: int, fields: Mapping[str, Any], *, max_documents: int) -> Slice:
    """Validate a request and return it as one slice. Raises ItemError when it cannot be scored;
    a document that cannot is a failure in the slice."""
    request = _validate(fields)
    if request.query.plain and not (request.query.text or "").strip():
        raise ItemError("empty_query", "the query is empty", hint="say what is looked for")
    if not request.documents:
        raise ItemError("no_documents", "there are no documents", hint="give at least one")
    if len(request.documents) > max_documents:
        raise ItemError(
            "too_many_documents",
            f"{len(request.documents)} documents in one request, at most {max_documents} allowed",
            hint="split it, or raise RERANK_MAX_DOCUMENTS_PER_REQUEST",
        )
    documents, indices, failures = [], [], []
    for index, value in enumerate(request.documents):
        found = _document(number, index, value)
        if isinstance(found, Document):
            documents.append(found)
            indices.append(index)
        else:
            failures.append(found)
    return Slice(
        line=number,
        documents=documents,
        indices=indices,
        failures=failures,
        **request.model_dump(exclude={"documents"}),
    )


def _decode(raw: bytes, hint: str = FORMAT_HINT) -> dict[str, Any]:
    try:
        fields = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ItemError("malformed_line", f"not UTF-8 at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise ItemError("malformed_line", f"not JSON: {str(error)[:200]}", hint=hint) from error
    if not isinstance(fields, dict):
        kind = type(fields).__name__
        raise ItemError("malformed_line", f"expected a JSON object, got {kind}", hint=hint)
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _validate(fields: Mapping[str, Any]) -> RerankRequest:
    try:
        request = RerankRequest.model_validate(few_fields(dict(fields)))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])[:FIELD_SHOWN]
        message = first["msg"]
        if first["type"] == "extra_forbidden":
            message = "there is no such field"
        hint = CONTENT_HINT if first["loc"][:1] == ("query",) else FORMAT_HINT
        raise ItemError("invalid_request", f"{field}: {message}", hint=hint) from error
    _refuse_unwritable(request.model_copy(update={"documents": []}), "invalid_request")
    return request


def _refuse_unwritable(found: RerankRequest | Document, code: str, where: str = "") -> None:
    """Raise ItemError for what no shard file can hold: it would stop the whole job."""
    try:
        again = type(found).model_validate_json(found.model_dump_json())
    except ValueError as error:
        if "surrogates" in str(error):
            what = where.rstrip(".") or "the request"
            raise ItemError("invalid_text", f"{what} holds half a surrogate pair") from error
        raise ItemError(code, f"{where}metadata: nested too deeply") from error
    if again != found:
        said = "a number is out of range or a key is no text"
        raise ItemError(code, f"{where}metadata: {said}")


def image_of(number: int, raw: bytes | None, queries: int) -> ImageRun | Slice:
    """Turn line `number` (from 1) of a catalog into an image with all its queries; what is wrong
    with it becomes its failure. The line is a URI, a path or a JSON object."""
    try:
        return ImageRun(run=(0, queries), line=number, document=_image(raw))
    except ItemError as error:
        failure = Failure(line=number, code=error.code, message=error.message, hint=error.hint)
        salvaged = _salvage_id(raw)
        metadata = None if salvaged is None else {"image_id": salvaged}
        return Slice(line=number, metadata=metadata, failures=[failure])


def image_id(document: Document) -> str | int:
    """How the output names an image of a catalog: by its id, or else by its URI, without what may
    sign it."""
    if document.id is not None:
        return document.id
    uri = document.image[0]
    return uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri


def _image(raw: bytes | None) -> Document:
    if raw is None:
        raise ItemError("line_too_long", "the line is too long", hint="RERANK_MAX_LINE_BYTES")
    if raw.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        fields = _decode(raw, hint=LISTING_HINT)
    else:
        fields = {"image": raw.decode("utf-8-sig", "surrogateescape").strip()}
    if MALFORMED in fields:
        raise ItemError("malformed_line", str(fields[MALFORMED]), hint=LISTING_HINT)
    if fields.get("image") in (None, [], ""):
        raise ItemError("no_image", "there is no image", hint=LISTING_HINT)
    try:
        document = valid_document(fields)
    except ValidationError as error:
        raise ItemError("invalid_image", _first(error), hint=LISTING_HINT) from error
    except UnicodeEncodeError as error:
        raise ItemError("invalid_text", "the line holds half a surrogate pair") from error
    if document.metadata is not None:
        raise ItemError("invalid_image", "metadata: a row has no place for it", hint=LISTING_HINT)
    if document.id is None and document.image[0].startswith("data:"):
        raise ItemError("no_id", "a data: URI needs an id", hint=LISTING_HINT)
    return document


MALFORMED = "malformed"
"""The field in which a row of another format, made a line, says what is wrong with it."""


def valid_document(fields: Any) -> Document:
    """Validate a document. Raises ValidationError, or UnicodeEncodeError for what is no text."""
    document = Document.model_validate(content_fields(fields))
    if isinstance(document.id, str):
        document.id.encode()
    if document.text is not None and not document.text.isascii():
        document.text.encode()  # half a surrogate pair is no text
    return document


def _first(error: ValidationError, *before: str) -> str:
    """What is wrong first, with the name of the field."""
    first = error.errors()[0]
    field = ".".join([*before, *map(str, first["loc"])])[:FIELD_SHOWN]
    return f"{field}: {first['msg']}" if field else str(first["msg"])


def _document(number: int, index: int, value: Any) -> Document | Failure:
    def failure(code: str, message: str, hint: str) -> Failure:
        own = _id_of(value)
        return Failure(line=number, index=index, id=own, code=code, message=message, hint=hint)

    try:
        document = valid_document(value)
        if document.metadata is not None:
            alone = Document(text="", metadata=document.metadata)
            _refuse_unwritable(alone, "invalid_document", f"documents.{index}.")
    except ValidationError as error:
        said = _first(error, "documents", str(index))
        return failure("invalid_document", said, CONTENT_HINT)
    except UnicodeEncodeError:
        said = f"documents.{index} holds half a surrogate pair, which is no text"
        return failure("invalid_text", said, "repair the text's encoding")
    except ItemError as error:
        return failure(error.code, error.message, CONTENT_HINT)
    return document


def _salvage_id(raw: bytes | None) -> str | int | None:
    """The id of a line that is wrong elsewhere, so that its error can be told to its owner."""
    try:
        return _id_of(json.loads(raw or b"null"))
    except (ValueError, RecursionError):
        return None


def _id_of(fields: Any) -> str | int | None:
    """The id of what is wrong elsewhere, or None where that is wrong too."""
    found = fields.get("id") if isinstance(fields, dict) else None
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except ValueError:  # half a surrogate pair, or a number of too many digits
        return None
    return found


def _told_once(errors: Sequence[Failure]) -> Iterator[Failure]:
    """The errors of a line; what rejects its whole request is one, without an index."""
    whole = next((e for e in errors if e.code == POOR_QUERY), None)
    if whole:
        yield whole.model_copy(update={"index": None, "id": None, "metadata": None})
    yield from (e for e in errors if e.code != POOR_QUERY)


def _error(found: Failure) -> dict[str, Any]:
    return found.model_dump(exclude_none=True) | {"retryable": found.retryable}


_IMAGE_FIELDS = {"quality", "tokens", "plain_margin", "images"}


def _result(found: Scored, calibration: Calibration) -> dict[str, Any]:
    result: dict[str, Any] = {"index": found.index}
    if found.id is not None:
        result["id"] = found.id
    result["relevance_score"] = calibration.score(found.margin)
    result["margin"] = found.margin
    if found.truncated_tokens:
        result["truncated_tokens"] = found.truncated_tokens
    if found.crowded:
        result["crowded"] = True
    if found.images or found.tokens is not None or found.quality is not None:
        result |= found.model_dump(mode="json", include=_IMAGE_FIELDS, exclude_none=True)
    if found.channels is not None:
        result["explain"] = explain(found.channels, calibration)
    if found.metadata is not None:
        result["metadata"] = found.metadata
    return result


def _scored_of(found: Mapping[str, Any]) -> Scored:
    channels = found.get("explain", {}).get("channels")
    return Scored(**_known(found, Scored), channels=channels)


def _known(found: Mapping[str, Any], kind: type[Scored] | type[Failure]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name in kind.model_fields}
