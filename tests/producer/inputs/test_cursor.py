"""Cursors survive being written and read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.producer.inputs.cursor import Cursor


@given(st.builds(Cursor, *[st.integers(0, 10**15)] * 5))
def test_a_cursor_is_read_as_it_was_written(cursor):
    assert Cursor.parse(str(cursor)) == cursor


def test_the_beginning_is_the_empty_text():
    assert str(Cursor()) == ""
    assert Cursor.parse("") == Cursor()
