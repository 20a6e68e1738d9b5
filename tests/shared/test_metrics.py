"""What workers count: names by Prometheus' conventions, and counts that travel unharmed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.metrics import FAMILIES, PAIRS, QUEUE_WAIT, dump_counts, load_counts

UNITS = ("_seconds", "_bytes", "_pixels")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_is_named_as_prometheus_wants_it(family):
    assert re.fullmatch(r"rerank_[a-z_]+", family.name)
    assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert family.kind == "counter" or family.name.endswith(UNITS)
    assert list(family.buckets) == sorted(set(family.buckets))
    assert bool(family.buckets) == (family.kind == "histogram")
    assert not {"worker", "model", "le"} & set(family.labels)
    for values in family.labels.values():
        assert len(set(values)) == len(values) > 1
        assert all(re.fullmatch(r"[a-z_]+", one) for one in values)


def samples(family):
    """Some samples of a family."""
    number = st.floats(0, 1e15)
    histogram = st.lists(number, min_size=len(family.buckets) + 2, max_size=len(family.buckets) + 2)
    values = histogram if family.kind == "histogram" else number
    return st.dictionaries(st.sampled_from(family.all_labels), values)


@given(st.fixed_dictionaries({family.name: samples(family) for family in FAMILIES}))
def test_what_was_sent_is_read(counts):
    assert load_counts(dump_counts(counts)) == counts


def test_what_this_version_does_not_know_is_left_out():
    known = {("text", "ok"): 3.0}
    counts = {
        "rerank_dreams": {(): 1.0},
        PAIRS.name: {
            **known,
            ("text", "lost"): 1.0,
            ("text",): 1.0,
            ("text", "error"): [1.0, 2.0],
        },
        QUEUE_WAIT.name: {("bulk",): [1.0, 2.0], ("normal",): 3.0},
    }

    loaded = load_counts(dump_counts(counts))

    assert {name: samples for name, samples in loaded.items() if samples} == {PAIRS.name: known}


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "7", '{"rerank_pairs": 7}', '{"rerank_pairs": {"a": NaN}}']
)
def test_what_cannot_be_read_is_nothing(text):
    assert not any(load_counts(text).values())
