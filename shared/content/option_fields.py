"""What `ScoringOptions` declares of each option, read back for the command line and the docs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rerankfleet.shared.content.options import GROUPS, ScoringOptions, Unset

SHOWN_MAX = 1 << 31
"""An upper bound from here on only guards against overflow: nobody needs to read it."""


@dataclass(frozen=True, slots=True)
class OptionField:
    """One option as people read of it."""

    name: str
    panel: str
    description: str
    default: Any
    unset: str
    """What a default of None means; empty where None is no value."""
    schema: Mapping[str, Any]
    """Its JSON schema, without null."""

    @property
    def kind(self) -> str:
        """Its type in JSON: integer, number, string, boolean, array or object."""
        return str(self.schema["type"])

    @property
    def choices(self) -> tuple[str, ...]:
        """Its values, where they are named."""
        return tuple(self.schema.get("enum", ()))

    @property
    def bounds(self) -> str:
        """Its least and largest value, in words; empty where there are none."""
        if self.kind == "array":
            return f"{bounds_of(self.schema['prefixItems'][0])} each"
        return bounds_of(self.schema)

    @property
    def shown_default(self) -> str:
        """Its default, in words; empty where that is nothing at all."""
        if self.kind == "boolean":
            return "on" if self.default else "off"
        if self.default is None or self.default == {}:
            return self.unset
        return str(self.default)


def option_fields(model: type[ScoringOptions] = ScoringOptions) -> Iterator[OptionField]:
    """Every option, group by group."""
    properties = model.model_json_schema()["properties"]
    for group in GROUPS:
        for name in group.model_fields:
            field = model.model_fields[name]
            meanings = [note.meaning for note in field.metadata if isinstance(note, Unset)]
            yield OptionField(
                name=name,
                panel=group.panel,
                description=field.description or "",
                default=field.get_default(call_default_factory=True),
                unset="".join(meanings),
                schema=without_null(properties[name]),
            )


def without_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a value that may also be null, as if it might not."""
    choices = schema.get("anyOf", [schema])
    (other,) = (choice for choice in choices if choice.get("type") != "null")
    return dict(other)


def bounds_of(schema: Mapping[str, Any]) -> str:
    """The least and the largest value of a schema, in words; empty where there are none."""
    above, least = schema.get("exclusiveMinimum"), schema.get("minimum")
    most = schema.get("maximum", SHOWN_MAX)
    if "maxLength" in schema:
        return f"at most {schema['maxLength']} characters"
    if above is not None:
        return f"above {above}" + (f", at most {most}" if most < SHOWN_MAX else "")
    if least is None:
        return ""
    return f"{least} to {most}" if most < SHOWN_MAX else f"at least {least}"
