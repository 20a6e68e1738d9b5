"""Fields of a body: how many it may have, and those that are unknown.

Clients of other servers send fields that have no meaning here, more of them with each version: they
are ignored with a warning. But a misspelt option of our own must not be ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fastapi import Request
from pydantic import AliasChoices, BaseModel, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.shared.content.validation import FIELD_SHOWN

LIKENESS = 0.8
"""The similarity (`difflib`, 0 to 1) from which a name is taken for a misspelling: `temprature` has
.95, `top_k` .8."""
BODY_FIELDS_MAX = 100
"""Most fields of a body, or of an object of options in it: each wrong one costs memory, and each
unknown one is compared with the known ones. None of ours has half as many."""
OTHERS = frozenset(
    {
        "activation",  # vLLM: use_activation in older versions
        "max_doc_length",  # Jina
    }
)
"""Fields of other servers that look like misspellings of ours."""

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
    """An object in a body. However wrong it is, it causes few errors; a field that may be left out
    may also be null."""

    @model_validator(mode="before")
    @classmethod
    def _are_few(cls, value: Any) -> Any:
        refuse_many(value)
        if not isinstance(value, Mapping) or None not in value.values():
            return value
        optional = _names(cls, optional=True)
        return {k: v for k, v in value.items() if v is not None or k not in optional}

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


def ignored(body: BaseModel, without_effect: Mapping[str, Any] | None = None) -> list[str]:
    """Warnings of fields that have no effect: unknown ones, and those of `without_effect` that are
    set. Raises InvalidField for one that looks like a misspelling of ours."""
    known = _names(type(body))
    unknown = sorted(body.model_extra or {})
    for name in unknown:
        _refuse_misspelling(name, known)
    idle = (name for name, value in (without_effect or {}).items() if value is not None)
    return [f"the field {name[:FIELD_SHOWN]!a} is ignored" for name in (*unknown, *idle)]


def _refuse_misspelling(name: str, known: list[str]) -> None:
    if name in OTHERS:
        return
    if similar := get_close_matches(name[:FIELD_SHOWN].lower(), known, 2, LIKENESS):
        shown = name[:FIELD_SHOWN].encode("ascii", "backslashreplace").decode()
        hint = f"did you mean {' or '.join(sorted(similar))}?"
        raise InvalidField((shown,), "there is no such field", hint=hint)


def _names(kind: type[BaseModel], *, optional: bool = False) -> list[str]:
    """The names that a body's fields may have, or only those that may be left out."""
    names: list[str] = []
    for name, field in kind.model_fields.items():
        if optional and field.is_required():
            continue
        alias = field.validation_alias or name
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        names += [choice for choice in choices if isinstance(choice, str)]
    return names


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
