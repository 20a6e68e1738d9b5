"""The template of a model. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerankfleet.workers.prompting.prompts import Prompter
from rerankfleet.workers.prompting.text import TextPrompter
from rerankfleet.workers.prompting.vl import VLPrompter


def prompter_of(folder: Path, config: Mapping[str, Any]) -> Prompter:
    """The prompter for a model's folder and config. Raises ModelRefused when its tokeniser lacks a
    token that the template needs."""
    return VLPrompter(folder) if "vision_config" in config else TextPrompter(folder)
