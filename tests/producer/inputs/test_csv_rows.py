"""CSV is read strictly: each cell as it stands, nothing guessed behind a wrong quotation mark."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.producer.inputs.csv_rows import COMMA, DELIMITERS, CsvRows
from rerankfleet.shared.errors import UsageError


def rows(data: bytes, delimiter: bytes = COMMA, row_bytes: int = 1 << 20) -> list[tuple[int, list]]:
    found = list(CsvRows(io.BytesIO(data), "f", row_bytes, lambda line: delimiter))
    assert all(row.error == "" for row in found)
    return [(row.line, row.cells) for row in found]


cells = st.text(st.sampled_from('a,;\t "é\n\r\0'), max_size=6)


@given(st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1), st.sampled_from(DELIMITERS))
def test_what_was_written_in_quotation_marks_comes_back(table, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter.decode(), quoting=csv.QUOTE_ALL).writerows(table)

    assert [cells for _, cells in rows(out.getvalue().encode(), delimiter)] == table


def test_rows_have_the_lines_on_which_they_begin():
    data = b'\xef\xbb\xbfa,b\r\n"x\r\ny\rz",1\r\n\r\n \t\r\n3,\n'

    assert rows(data) == [(1, ["a", "b"]), (2, ["x\r\ny\rz", "1"]), (6, ["3", ""])]


def test_a_row_of_several_lines_says_which():
    _, *found = CsvRows(io.BytesIO(b'a,b,c\nx,"open,1\ny,"\nz\n'), "f", 1000)

    assert [row.place for row in found] == ["at lines 2 to 3 of the file", "at line 4 of the file"]


def test_a_quotation_mark_within_a_cell_is_a_character():
    assert rows(b'5" nail, "x"\n"he said ""hi""" ,\n') == [
        (1, ['5" nail', ' "x"']),
        (2, ['he said "hi"', ""]),
    ]


def test_a_cell_is_as_long_as_a_row_may_be():
    assert len(rows(b'a,b\n"' + b"x" * 900_000 + b'",1\n')[1][1][0]) == 900_000


def test_a_file_whose_lines_end_with_a_carriage_return_is_read():
    assert rows(b"a,b\r1,2\r\r3,4") == [(1, ["a", "b"]), (2, ["1", "2"]), (4, ["3", "4"])]


@pytest.mark.parametrize(
    ("data", "opened"),
    [
        (b'a,b\n1,2\n3,"open\n5,6\n7,8\n', "the quotation mark of line 3 is never closed"),
        (b'a,b\n1,2\n"x\ny","open\n7,8\n', "the quotation mark of line 4 is never closed"),
        (b'a,b\n1,2\n3,"', "the quotation mark of line 3 is never closed"),
        (b'a,b\n1,2\n"x"y,4\n7,8\n', "text follows the cell whose quotation mark opens at line 3"),
        (b'a,b\n1,2\n"he said "hi"",4\n7,8\n', "opens at line 3"),
    ],
)
def test_behind_a_wrong_quotation_mark_nothing_is_guessed(data, opened):
    *good, last = CsvRows(io.BytesIO(data), "f", 1000)

    assert [row.cells for row in good] == [["a", "b"], ["1", "2"]]
    assert last.line == 3
    assert last.cells == []
    assert opened in last.error
    assert "the rest of the file was not read" in last.error


def test_a_carriage_return_outside_of_quotation_marks_costs_its_row():
    _, bad, good = CsvRows(io.BytesIO(b"a,b\nx\ry,1\nz,2\r\r\n"), "f", 1000)

    assert bad.error == "a carriage return outside of quotation marks at line 2"
    assert (good.cells, good.error) == (["z", "2"], "")


def test_what_is_not_utf_8_is_named_by_line_and_byte():
    _, row, good = CsvRows(io.BytesIO(b'a,b\n"x\ny",\xe9\n1,2\n'), "f", 1000)

    assert row.not_utf8 == "not UTF-8 at byte 3 of line 3"
    assert good.not_utf8 == ""


def test_a_row_that_is_too_long_names_the_open_quotation_mark():
    data = b'a,b\n1,2\n"' + b"x,\n" * 1000
    with pytest.raises(UsageError, match=r"line 3.. of f is too long.* opens at line 3\).*missing"):
        list(CsvRows(io.BytesIO(data), "f", 1000))
