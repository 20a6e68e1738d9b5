"""Profiles: options that go together under one name. The built-in ones as data, and the user's own.

Your own stand as tables in a TOML file, which RERANK_PROFILES names:

    [shop]
    base = "ecommerce"          # begin with another profile's values
    temperature = 0.5
    instructions = {de = "…"}   # for queries in a language

A profile has values for the options of a job that are not given. It is looked up where a job is
made, and the job remembers the values and the name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from rerankfleet.shared.content.options import (
    AdaptationOptions,
    ImageOptions,
    PairOptions,
    VideoOptions,
)
from rerankfleet.shared.errors import InvalidOption, UsageError


class ProfileOptions(PairOptions, AdaptationOptions, ImageOptions, VideoOptions):
    """The options that a profile may have values for: how pairs are scored, not which."""


class Profile(ProfileOptions):
    """Options that go together."""

    model_config = ConfigDict(strict=True)

    about: str = ""
    base: str | None = None
    """The profile that it begins with."""
    batch_pairs: int | None = Field(default=None, ge=1)
    """Pairs of a pack, for a worker whose policy starts from a number of pairs."""

    @property
    def options(self) -> dict[str, Any]:
        """Its fields of a JobSpec."""
        return self.model_dump(include=set(ProfileOptions.model_fields))


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "default": Profile(about="no other profile: the model's own instruction, plain sigmoid"),
        "ecommerce": Profile(
            about="products for shopping queries",
            instruction="Given a shopping query, retrieve products that match its category, "
            "specification, price and the shopper's intent",
            temperature=0.3,
            max_length=4096,
            image_preset="product",
            batch_pairs=12,
        ),
        "academic": Profile(
            about="papers for research questions",
            instruction="Given a research question, retrieve papers that match its topic and "
            "method; prefer recent and well cited ones",
            temperature=0.7,
            image_preset="document",
            batch_pairs=4,
        ),
        "multilingual": Profile(
            about="queries and documents in different languages",
            instruction="Given a query in any language, retrieve documents in any language that "
            "match its meaning and its cultural context",
            temperature=0.6,
            batch_pairs=8,
        ),
    }
)
"""The built-in profiles. Their instructions are in English, which the models know best."""


def load_profiles(file: Path | None) -> dict[str, Profile]:
    """The built-in profiles and those of a file, by name.

    Raises UsageError naming file, table and field where the file is wrong.
    """
    tables = _read_tables(file) if file else {}
    return dict(PROFILES) | {name: _build(name, tables, file) for name in tables}


def find_profile(name: str, file: Path | None) -> Profile:
    """A profile by name. Raises UsageError listing the known ones."""
    known = load_profiles(file)
    if name not in known:
        raise InvalidOption(
            "profile",
            f"there is no profile {name!r}",
            hint=f"use one of {', '.join(sorted(known))}"
            + ("" if file else ", or set RERANK_PROFILES to a file of your own"),
        )
    return known[name]


def resolve(profile: str | None, options: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """A job's options: those given, over those of the profile; JobSpec has defaults for the rest.

    None is not given. Raises UsageError for a profile that is unknown or wrong.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    if profile is None:
        return chosen
    values = find_profile(profile, file)
    named = {"profile": profile, "profile_temperature": values.temperature}
    return _over(values.options, chosen) | named


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Options over others. An instruction replaces those by language, unless it brings its own."""
    covered: dict[str, Any] = {"instructions": {}} if "instruction" in above else {}
    return {**below, **covered, **above}


def _read_tables(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the profiles {file} cannot be read: {error.strerror}", hint="correct RERANK_PROFILES"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the profiles {file} are not TOML: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(
                f"the profiles {file} have the value {name!r} outside of a table",
                hint="write a table per profile: [name], and its fields below",
            )
        if name in PROFILES:
            raise UsageError(
                f"the table [{name}] of {file} has the name of a built-in profile",
                hint=f'choose another name, and begin it with base = "{name}"',
            )
    return tables


def _build(
    name: str, tables: Mapping[str, Any], file: Path | None, above: tuple[str, ...] = ()
) -> Profile:
    """The profile of a table, over its base's fields; `above` are those whose base this is."""
    if name in PROFILES:
        return PROFILES[name]
    own = _checked(name, tables[name], file)
    if own.base is None:
        return own
    known = {*PROFILES, *tables} - {name, *above}
    if own.base not in known:
        raise UsageError(
            f"[{name}] of {file}: base is {own.base!r}",
            hint=f"expected one of {', '.join(sorted(known))}",
        )
    base = _build(own.base, tables, file, (*above, name))
    fields = own.model_dump(exclude_unset=True)
    return _checked(name, _over(base.model_dump(exclude={"about"}), fields), file)


def _checked(name: str, fields: Mapping[str, Any], file: Path | None) -> Profile:
    try:
        return Profile(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        raise UsageError(
            f"[{name}] of {file}: {field} is "
            + ("no field of a profile" if unknown else f"{first['input']!r}"),
            hint=f"expected {', '.join(_fields())}" if unknown else first["msg"],
        ) from error


def _fields() -> list[str]:
    """The fields of a profile, its own before the options."""
    options = list(ProfileOptions.model_fields)
    return sorted(set(Profile.model_fields) - set(options)) + options
