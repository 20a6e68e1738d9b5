"""Sub-scores come from channels that exist, or not at all."""

from __future__ import annotations

import pytest

from rerankfleet.shared.calibration import Calibration, relevance_score
from rerankfleet.shared.sub_scores import CHANNELS, explain


def test_text_against_text_has_no_image_to_match():
    found = explain({"text-text": 1.0})
    assert found["text_alignment"] == relevance_score(1.0)
    assert found["visual_match"] is None
    assert found["consistency"] is None


def test_an_image_alone_is_matched_by_the_words():
    found = explain({"text-image": -2.0})
    assert found["visual_match"] == found["text_alignment"] == relevance_score(-2.0)
    assert found["consistency"] is None


def test_with_all_channels_like_is_matched_with_like():
    margins = dict(zip(CHANNELS, (2.0, 0.5, -1.0, 3.0), strict=True))
    found = explain(margins, Calibration(0.5))
    assert found["visual_match"] == relevance_score(3.0, 0.5)
    assert found["text_alignment"] == relevance_score(2.0, 0.5)
    spread = relevance_score(3.0, 0.5) - relevance_score(-1.0, 0.5)
    assert found["consistency"] == pytest.approx(1 - spread)
    assert found["channels"] == margins


def test_what_could_not_be_scored_is_not_made_up():
    assert explain({}) == {
        "visual_match": None,
        "text_alignment": None,
        "consistency": None,
        "channels": {},
    }


def test_sub_scores_are_calibrated_as_the_score_is():
    margins = {"text-text": 1.0, "text-image": -0.2}
    found = explain(margins, Calibration(0.3, top_p=0.8))
    assert found["text_alignment"] == 1.0
    assert found["visual_match"] == relevance_score(-0.2, 0.3)
    assert found["channels"] == margins
