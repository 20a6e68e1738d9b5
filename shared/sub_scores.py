"""Sub-scores of a pair of images and text, by scoring its parts separately.

A channel is one part of the query against one part of the document, by the same model:

    text-text    text-image    image-text    image-image        query first; frames are images

visual match     the document's image against the query's image, else its text
text alignment   the words against the words; where a side has none, its image
consistency      1 - (largest - smallest) of the channels' scores: do image and words agree?

None where a pair has no such part. With a single channel, the score is all there is. A pair whose
parts are both irrelevant is consistent too. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rerankfleet.shared.calibration import PLAIN, Calibration

TEXT, IMAGE = "text", "image"
CHANNELS = tuple(f"{query}-{document}" for query in (TEXT, IMAGE) for document in (TEXT, IMAGE))
"""Names of all channels."""

_VISUAL = ("image-image", "text-image")
_WORDS = ("text-text", "text-image", "image-text")


def explain(channels: Mapping[str, float], calibration: Calibration = PLAIN) -> dict[str, Any]:
    """Sub-scores from the channels' margins, and the margins themselves."""
    scores = {name: calibration.score(m) for name, m in channels.items()}
    difference = max(scores.values(), default=0) - min(scores.values(), default=0)
    return {
        "visual_match": _first(scores, _VISUAL),
        "text_alignment": _first(scores, _WORDS),
        "consistency": 1 - difference if len(scores) > 1 else None,
        "channels": dict(channels),
    }


def _first(scores: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((scores[name] for name in names if name in scores), None)
