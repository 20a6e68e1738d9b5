"""Names of models: their canonical form, and the demonstration models."""

from __future__ import annotations

from pathlib import Path

POCKET_MODELS = ("pocket-text", "pocket-vl")
"""Demonstration models that ship with the package; never a default."""


def canonical_model(model: str) -> str:
    """The name under which a model is served: a folder by its full path, a hub name as it is."""
    try:
        is_folder = model not in POCKET_MODELS and Path(model).is_dir()
    except OSError:  # not a valid file name
        is_folder = False
    return str(Path(model).resolve()) if is_folder else model
