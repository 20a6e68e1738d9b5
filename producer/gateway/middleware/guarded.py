"""Which paths are guarded by a key or by this host's names."""

from __future__ import annotations

from starlette.types import Scope

from rerankfleet.producer.gateway.rights import GUARDED


def is_guarded(scope: Scope) -> bool:
    """Whether a request is to a guarded path."""
    return scope["type"] == "http" and str(scope["path"]).startswith(GUARDED)
