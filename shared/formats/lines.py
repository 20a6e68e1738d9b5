"""A line of input -> a slice of pairs, or an image of a catalog.

A malformed line is a slice with one failure, so that every line of input gives one line of output,
in order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NoReturn, cast

from pydantic import ValidationError

from rerankfleet.shared.addresses import printable, safe_uri, without_secrets
from rerankfleet.shared.content.content import Document, content_fields, given_fields
from rerankfleet.shared.content.given import with_images
from rerankfleet.shared.content.outcomes import Failure
from rerankfleet.shared.content.requests import ImageRun, RerankRequest, Slice
from rerankfleet.shared.content.twins import find_twins
from rerankfleet.shared.content.uris import URI_CHARACTERS
from rerankfleet.shared.content.validation import (
    FIELD_SHOWN,
    NESTING_MAX,
    ItemId,
    first_error,
    is_id,
    require_json,
)
from rerankfleet.shared.errors import ItemError, Path, UsageError
from rerankfleet.shared.heartbeat import beat

FORMAT_HINT = (
    'write one JSON object a line: {"query": "...", "documents": ["...", {"id": "d1", "text": '
    '"..."}]}, optionally with "id", "instruction", "top_n", "metadata"'
)
REQUEST_HINT = (
    'a request has "query" and "documents", and optionally "id", "instruction", "top_n", "metadata"'
)
CONTENT_HINT = (
    'a query or document is a string or {"text"?, "image"?: URI or list, "video"?: {"frames": '
    '[URI], "fps"?}}, or "frames"? instead of "video"; a document also with "id" and "metadata"'
)
LISTING_HINT = (
    'write one image a line: a URI or path, or {"image": URI, "id"?, "text"?}; or CSV or Parquet '
    "with the columns image, id, text"
)
ENCODING_HINT = "repair the text's encoding: write it as UTF-8"
JSON_HINT = "use finite numbers, text as keys, and fewer levels"


def raw_lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (bytes consumed, line without its end) per line; None for one over `max_bytes`.

    Holds one line at the most, whatever the file is.
    """
    while line := stream.readline(max_bytes + 1):
        beat()
        consumed = len(line)
        if consumed <= max_bytes or line.endswith(b"\n"):
            yield consumed, line.rstrip(b"\r\n")
            continue
        while rest := stream.readline(1 << 20):
            beat()
            consumed += len(rest)
            if rest.endswith(b"\n"):
                break
        yield consumed, None


def refuse_other_formats(head: Iterable[bytes | None], name: str) -> None:
    """Raise UsageError when none of a file's first lines is a JSON object, or all that are hold
    something else than a request."""
    lines = list(head)
    if not lines:
        raise UsageError(f"{name} is empty", hint=FORMAT_HINT)
    objects = [fields for line in lines if (fields := _as_object(line)) is not None]
    if not objects:
        raise UsageError(f"{name} is not JSON Lines", hint=FORMAT_HINT)
    if not any(_may_be_request(fields) for fields in objects):
        keys = ", ".join(map(str, objects[0]))[:FIELD_SHOWN].encode("ascii", "backslashreplace")
        batch = " (a batch file of another API)" if "custom_id" in objects[0] else ""
        message = f"{name} holds no requests: its first line has {keys.decode()}{batch}"
        raise UsageError(message, hint=FORMAT_HINT)


def _may_be_request(fields: Mapping[str, Any]) -> bool:
    return not fields or not fields.keys().isdisjoint(("query", "documents"))


def _as_object(line: bytes | None) -> dict[str, Any] | None:
    """The fields of a line as it will be read, or None."""
    try:
        return None if line is None else json_object(line)
    except ItemError:
        return None


def parse_line(number: int, raw: bytes | None, *, max_documents: int) -> Slice:
    """Turn line `number` (from 1) into a slice; what is wrong with it becomes its failure."""
    try:
        return slice_of(number, json_object(_not_too_long(raw)), max_documents=max_documents)
    except ItemError as error:
        return Slice(line=number, id=_salvage_id(raw), failures=[_failure(error, number)])


def slice_of(
    number: int,
    fields: Mapping[str, Any],
    *,
    max_documents: int,
    strict: bool = False,
    replace_image: Callable[[Any], str] | None = None,
) -> Slice:
    """Validate a request and return it as one slice. Raises ItemError when it cannot be scored;
    a document that cannot is a failure in the slice, or raised too if `strict`. `replace_image`
    gives the URI of an image that a program holds, or raises ItemError."""

    def replaced(content: Any) -> Any:
        return with_images(content, replace_image) if replace_image else content

    if "query" in fields:
        fields = {**fields, "query": replaced(fields["query"])}
    request = _request(fields)
    _require_documents(request, max_documents)
    documents, indices, failures = [], [], []
    for index, value in enumerate(request.documents):
        try:
            documents.append(valid_document(replaced(value), path=("documents", index)))
            indices.append(index)
        except ItemError as error:
            if strict:
                raise
            known = {"id": _id_of(value), "image": _image_at(value, error.path[2:])}
            failures.append(_failure(error, number, index=index, **known))
    return Slice(
        line=number,
        documents=documents,
        indices=indices,
        failures=failures,
        twins=find_twins(zip(indices, documents, strict=True)),
        **request.model_dump(exclude={"documents"}),
    )


def _failure(error: ItemError, number: int, **pair: Any) -> Failure:
    return Failure(line=number, code=error.code, message=error.text(), hint=error.hint, **pair)


def _not_too_long(raw: bytes | None) -> bytes:
    if raw is None:
        raise ItemError("line_too_long", "the line is too long", hint="RERANK_MAX_LINE_BYTES")
    return raw


def text_of(raw: bytes, code: str = "malformed_line") -> str:
    """The text of a line. Raises ItemError of this code naming the byte that is not UTF-8."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"not UTF-8 at byte {error.start}"
        raise ItemError(code, message, hint=ENCODING_HINT) from error


def json_object(raw: bytes, hint: str = FORMAT_HINT) -> dict[str, Any]:
    """The fields of a line of JSON. Raises ItemError where it is no object."""
    text = text_of(raw)
    try:
        fields = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=object_of)
    except (ValueError, RecursionError) as error:
        message = f"not JSON: {str(error)[:200]}"
        raise ItemError("malformed_line", message, hint=hint) from error
    if not isinstance(fields, dict):
        kind = type(fields).__name__
        raise ItemError("malformed_line", f"expected a JSON object, got {kind}", hint=hint)
    return fields


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError for a key that stands twice: one of both values would be
    lost."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:FIELD_SHOWN]!a} stands twice in an object")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _request(fields: Mapping[str, Any]) -> RerankRequest:
    """Validate all of a request but its documents."""
    try:
        request = RerankRequest.model_validate(given_fields(fields))
    except ValidationError as error:
        path, message = first_error(error.errors())
        hint = CONTENT_HINT if path[:1] == ("query",) else REQUEST_HINT
        raise ItemError("invalid_request", message, hint=hint, path=path) from error
    own = (
        (("id",), request.id),
        (("query",), request.query.text),
        (("instruction",), request.instruction),
        (("top_n",), request.top_n),
        (("metadata",), request.metadata),
    )
    _require_json(own, NESTING_MAX - _LEVELS_ABOVE_REQUEST, "invalid_request", ())
    return request


def _require_documents(request: RerankRequest, max_documents: int) -> None:
    """Raise ItemError for a request without a query or documents, or with too many of these."""
    if request.query.plain and not (request.query.text or "").strip():
        raise _about("query", "empty_query", "the query is empty", "give a text or an image")
    if not request.documents:
        raise _about("documents", "no_documents", "there are no documents", "give at least one")
    if len(request.documents) > max_documents:
        raise _about(
            "documents",
            "too_many_documents",
            f"{len(request.documents)} documents in one request, at most {max_documents} allowed",
            "split it, or raise RERANK_MAX_DOCUMENTS_PER_REQUEST",
        )


def _about(field: str, code: str, message: str, hint: str) -> ItemError:
    return ItemError(code, message, hint=hint, path=(field,), names_field=True)


_LEVELS_ABOVE_REQUEST = 1
"""Levels of JSON around a request's fields in a shard file."""
_LEVELS_ABOVE_DOCUMENT = 3
"""And around a document's: the slice, its list of documents, the document."""


def _require_json(values: Iterable[tuple[Path, Any]], levels: int, code: str, path: Path) -> None:
    """Raise ItemError for what no shard file can hold: it would stop the whole job. Each value has
    its path below `path`."""
    for inside, value in values:
        if value is None:
            continue
        try:
            require_json(value, levels)
        except UnicodeEncodeError:
            message, where = "holds half a surrogate pair, which is not text", (*path, *inside)
            raise ItemError("invalid_text", message, hint=ENCODING_HINT, path=where) from None
        except ValueError as error:
            where = (*path, *inside)
            raise ItemError(code, str(error), hint=JSON_HINT, path=where) from error


def image_of(number: int, raw: bytes | None, queries: int) -> ImageRun | Slice:
    """Turn line `number` (from 1) of a catalog into an image with all its queries; what is wrong
    with it becomes its failure. The line is a URI, a path or a JSON object."""
    try:
        return ImageRun(run=(0, queries), line=number, document=_image(raw))
    except ItemError as error:
        name = _salvage_name(raw)
        metadata = None if name is None else {"image_id": name}
        return Slice(line=number, metadata=metadata, failures=[_failure(error, number)])


def image_id(document: Document) -> ItemId:
    """How the output names an image of a catalog: by its id, or else by its address as it was
    written, without user, password and what signs it. Two lines may have the same."""
    return without_secrets(document.image[0]) if document.id is None else document.id


def _image(raw: bytes | None) -> Document:
    fields = _listed(_not_too_long(raw))
    if MALFORMED in fields:
        raise ItemError("malformed_line", str(fields[MALFORMED]), hint=LISTING_HINT)
    if fields.get("image") in (None, [], ""):
        others = sorted(fields.keys() - Document.model_fields.keys())[:1]
        found = "".join(f", but {name[:FIELD_SHOWN]!a}" for name in others)
        raise ItemError("no_image", f"there is no image{found}", hint=LISTING_HINT)
    document = valid_document(fields, code="invalid_image", hint=LISTING_HINT)
    if document.metadata is not None:
        message = "a row has no place for it"
        raise ItemError("invalid_image", message, hint=LISTING_HINT, path=("metadata",))
    if document.id is None and document.image[0].startswith("data:"):
        raise ItemError("no_id", "a data: URI needs an id", hint=LISTING_HINT)
    return document


def _listed(raw: bytes) -> dict[str, Any]:
    """The fields of a row of a catalog: a JSON object, or a URI alone."""
    if raw.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        return json_object(raw, hint=LISTING_HINT)
    return {"image": raw.decode("utf-8-sig", "surrogateescape").strip(" \t\r\n")}


MALFORMED = "malformed"
"""The field in which a row of another format, made a line, says what is wrong with it."""


def valid_document(
    value: Any,
    *,
    path: Path = (),
    code: str = "invalid_document",
    hint: str = CONTENT_HINT,
) -> Document:
    """Validate the document at a path. Raises ItemError of this code and hint."""
    try:
        document = Document.model_validate(content_fields(value))
    except ValidationError as error:
        inside, message = first_error(error.errors())
        raise ItemError(code, message, hint=hint, path=(*path, *inside)) from error
    own = (
        (("id",), document.id),
        (() if isinstance(value, str) else ("text",), document.text),
        (("metadata",), document.metadata),
    )
    _require_json(own, NESTING_MAX - _LEVELS_ABOVE_DOCUMENT, code, path)
    return document


def _salvage_id(raw: bytes | None) -> ItemId | None:
    """The id of a line that is wrong elsewhere, so that its error can be matched with it."""
    try:
        return _id_of(json.loads(raw or b"null"))
    except (ValueError, RecursionError):
        return None


def _salvage_name(raw: bytes | None) -> ItemId | None:
    """The id of a catalog's line that is wrong elsewhere, or else the address that it has."""
    try:
        fields = _listed(raw or b"")
    except ItemError:
        return None
    own_id = _id_of(fields)
    return _image_at(fields, ("image", 0)) if own_id is None else own_id


def _image_at(content: Any, path: Path) -> str | None:
    """What stands where a content has an address at a path of its validation, fit to be shown; None
    where nothing does."""
    if not {"image", "frames"}.intersection(path):
        return None
    for part in path:  # a bare address is a list of one; `frames` is short for `video`
        if isinstance(content, dict) and part == "video" and "frames" in content:
            continue
        try:
            content = content if isinstance(content, str) else content[part]
        except (KeyError, IndexError, TypeError):
            return None
    if not isinstance(content, str) or not content.strip():
        return None
    shown = printable(without_secrets(content)).encode(errors="replace").decode()
    return shown if len(shown) <= URI_CHARACTERS else safe_uri(shown)


def _id_of(fields: Any) -> ItemId | None:
    """The id of what is wrong elsewhere, or None where that is wrong too."""
    own_id = fields.get("id") if isinstance(fields, dict) else None
    if not is_id(own_id):
        return None
    try:
        require_json(own_id)
    except ValueError:
        return None
    return cast(ItemId, own_id)
