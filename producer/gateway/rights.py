"""Which right each path needs: the one table. With a route that is not in it no gateway starts.

A key with the right `admin` may do everything. Where several rights are named, one of them is
enough; where none is, any key will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from rerankfleet.producer.api_keys import EVERYONE, ApiKey, Right
from rerankfleet.producer.gateway.errors import KEY, MissingRight

RERANK, JOBS = frozenset({Right.rerank}), frozenset({Right.jobs})
ANY_KEY: frozenset[Right] = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """What may be done at a path and all below it, and with which rights."""

    path: str
    rights: frozenset[Right] | None
    """One of them is needed; None: not even a key."""
    what: str = ""
    """What a key without them may not do."""


RULES = (
    Rule("/v1/rerank", RERANK, "have requests scored"),
    Rule("/v2/rerank", RERANK, "have requests scored"),
    Rule("/rerank", RERANK, "have requests scored"),
    Rule("/v1/score", RERANK, "have requests scored"),
    Rule("/score", RERANK, "have requests scored"),
    Rule("/v1/jobs", JOBS, "make jobs or look at them"),
    Rule("/v1/uploads", RERANK | JOBS, "upload files"),  # images of a request, input of a job
    Rule("/v1/models", ANY_KEY),
    Rule("/v1/presets", ANY_KEY),
    Rule("/info", ANY_KEY),
    Rule("/v1/fleet", frozenset({Right.admin}), "look at the workers"),
    Rule("/metrics", frozenset({Right.metrics}), "read the metrics"),
    Rule("/health", None),
    Rule("/version", None),
    Rule("/docs", None),
    Rule("/openapi.json", None),
)
"""Any other path below GUARDED, where there is no route, needs some key."""

GUARDED = ("/v1", "/v2", *(rule.path for rule in RULES if rule.rights is not None))
"""The beginnings of guarded paths. Health, documentation and the page are open."""


def rule_of(path: str) -> Rule | None:
    """The rule of a path, or of a route's template; None if there is none."""
    return next((rule for rule in RULES if f"{path}/".startswith(f"{rule.path}/")), None)


def require_rules(routes: Iterable[BaseRoute]) -> None:
    """Raise LookupError for a route that has no rule: it would be open to every key."""
    for route in routes:
        if isinstance(route, APIRoute) and rule_of(route.path) is None:
            raise LookupError(f"{route.path} has no rule in producer/gateway/rights.py")


def refuse_without_right(key: ApiKey, path: str) -> None:
    """Raise MissingRight where a key may not do what a path is for."""
    rule = rule_of(path)
    if rule is not None and rule.rights:
        require(key, rule.rights, rule.what)


def require(key: ApiKey, any_of: frozenset[Right], what: str) -> None:
    """Raise MissingRight unless a key has one of some rights."""
    if key.may(any_of) or not any_of:
        return
    has = ", ".join(right for right in Right if right in key.rights)
    needed = " or ".join(right for right in Right if right in any_of)
    raise MissingRight(
        f"the key {key.name} may not {what}: it has the right{'s' * (len(key.rights) > 1)} {has}",
        hint=f"this needs the right {needed}: whoever keeps the gateway's keys can give it",
    )


def key_of(request: Request) -> ApiKey:
    """The key that a request came with; EVERYONE at a gateway without keys."""
    key = request.scope.get(KEY, EVERYONE)
    assert isinstance(key, ApiKey)
    return key
