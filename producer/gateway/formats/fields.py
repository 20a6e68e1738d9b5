"""Fields of a body: how many it may have, and those that are unknown.

Clients of other servers send fields that have no meaning here, more of them with each version: they
are ignored with a warning. But a misspelt option of our own must not be ignored. A name that
another server or another route has is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from fastapi import Request
from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.producer.gateway.formats.foreign import FOREIGN_NAMES
from rerankfleet.shared.content.validation import FIELD_SHOWN

LIKENESS = 0.8
"""The similarity (`difflib`, 0 to 1) from which a name is taken for a misspelling: `temprature` has
.95."""
BODY_FIELDS_MAX = 100
"""Most fields of a body, or of an object of options in it: each wrong one costs memory, and each
unknown one is compared with the known ones. None of ours has half as many."""

NAMES: Mapping[str, AliasChoices] = {
    "instruction": AliasChoices("instruction", "instruct"),
    "top_n": AliasChoices("top_n", "top_k", "topN", "topK"),
}
"""Fields that other servers know by other names, which are taken too."""

KEY_CHARACTERS = 200
"""Longest idempotency key."""

IDEMPOTENT: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "repeating a request with the same key does no work twice",
            "schema": {"type": "string", "maxLength": KEY_CHARACTERS},
        }
    ]
}
"""The header in the OpenAPI document of a route that takes it."""


def refuse_many(value: Any) -> Any:
    """The value, unless it is an object of too many fields. Raises PydanticCustomError."""
    if isinstance(value, Mapping) and len(value) > BODY_FIELDS_MAX:
        counts = {"count": len(value), "most": BODY_FIELDS_MAX}
        raise PydanticCustomError("fields", "it has {count} fields, of at most {most}", counts)
    return value


class Fields(BaseModel):
    """An object in a body. However wrong it is, it causes few errors; null is as if it were not
    there, and a field may be given by each of its NAMES."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: NAMES.get(name, name))
    )

    @model_validator(mode="before")
    @classmethod
    def _are_few(cls, value: Any) -> Any:
        """Raises InvalidField for a field that is given by two names with two values."""
        refuse_many(value)
        if not isinstance(value, Mapping):
            return value
        value = without_nulls(value)
        for names in _names(cls):
            _unite(names, value)
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            if name not in required:
                schema["properties"][name] = _or_null(field)
        return schema


ABOUT = {"title", "description", "default"}
"""Keys of a JSON schema that say nothing of what is valid."""


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of a field that may be null."""
    null = {"type": "null"}
    if null in schema.get("anyOf", ()):
        return schema
    valid = {key: value for key, value in schema.items() if key not in ABOUT}
    choices = valid["anyOf"] if valid.keys() == {"anyOf"} else [valid]
    return {"anyOf": [*choices, null]} | {k: v for k, v in schema.items() if k in ABOUT}


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are there: null is absent."""
    return {name: field for name, field in value.items() if field is not None}


def _unite(names: Sequence[str], value: dict[str, Any]) -> None:
    """Leave one of the names by which a field is given. Raises InvalidField if they differ."""
    given = [name for name in names if name in value]
    if len(given) < 2:
        return
    first, *others = [name for name in given if not _is_blank(value[name])] or given[:1]
    for other in others:
        refuse_two(first, value[first], other, value[other])
    for other in given:
        if other != first:
            del value[other]


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def refuse_two(name: str, value: Any, other: str, its_value: Any) -> None:
    """Raise InvalidField for two fields that mean the same and have different values."""
    if value != its_value:
        message = f"`{name}` and `{other}` mean the same and have different values"
        raise InvalidField((other,), message, hint="give one of them")


def ignored(body: BaseModel, without_effect: Mapping[str, Any] | None = None) -> list[str]:
    """Warnings of fields that have no effect: unknown ones, and those of `without_effect` that are
    set. Raises InvalidField for one that looks like a misspelling of ours."""
    unknown = sorted(body.model_extra or {})
    for name in unknown:
        _refuse_misspelling(name, type(body))
    return _ignored(unknown, without_effect or {})


def ignored_all(body: BaseModel) -> list[str]:
    """Warnings of unknown fields, none of which is refused."""
    return _ignored(sorted(body.model_extra or {}), {})


def _ignored(unknown: Sequence[str], without_effect: Mapping[str, Any]) -> list[str]:
    idle = (name for name, value in without_effect.items() if value is not None)
    return [f"the field {name[:FIELD_SHOWN]!a} is ignored" for name in (*unknown, *idle)]


def _refuse_misspelling(name: str, kind: type[BaseModel]) -> None:
    own = [one for names in _names(kind) for one in names]
    similar = get_close_matches(name[:FIELD_SHOWN].lower(), own, 2, LIKENESS)
    if not similar or name in FOREIGN_NAMES or name in _names_here():
        return
    shown = name[:FIELD_SHOWN].encode("ascii", "backslashreplace").decode()
    hint = f"did you mean {' or '.join(sorted(similar))}?"
    raise InvalidField((shown,), "there is no such field", hint=hint)


def _names(kind: type[BaseModel]) -> list[list[str]]:
    """Of each field the names that it may have."""
    names: list[list[str]] = []
    for name, field in kind.model_fields.items():
        alias = field.validation_alias or name
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names.append([choice for choice in choices if isinstance(choice, str)])
    return names


@cache
def _names_here() -> frozenset[str]:
    """The names of the fields of all bodies."""
    bodies = [kind for kind in _kinds(Fields) if "model" in kind.model_fields]
    return frozenset(name for kind in bodies for names in _names(kind) for name in names)


def _kinds(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for derived in kind.__subclasses__():
        yield derived
        yield from _kinds(derived)


def idempotency_key(request: Request, in_body: str | None = None) -> str | None:
    """The key of a request that may be repeated, from its body or its header. Raises InvalidField
    for one that is too long, or two that differ."""
    header = request.headers.get("idempotency-key")
    if header and in_body and header != in_body:
        raise InvalidField(("idempotency_key",), "the header Idempotency-Key has another value")
    key = in_body or header or None
    if key and len(key) > KEY_CHARACTERS:
        raise InvalidField(("idempotency_key",), f"it is longer than {KEY_CHARACTERS} characters")
    return key
