"""Options of a job that contradict each other."""

from __future__ import annotations

import pytest

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.job_spec import InputRef, make_spec


def test_options_of_images_that_contradict_each_other_are_refused_at_submission():
    source = InputRef(uri="file:///in", size=1, tag="t")
    with pytest.raises(UsageError, match="reference"):
        make_spec(model="m", input=source, image_preset="reference", resize_mode="fit")
