"""Tables as spreadsheets, databases and GBIF export them, and as they get broken."""

import pytest

from bioclip2_jax.data.tables import normal, open_table
from bioclip2_jax.errors import UserError

PLAIN = "filename,genus,note\n1.jpg,Panthera,big\n2.jpg,Lynx,small\n"


def rows(tmp_path, data: bytes | str, encoding: str = "utf-8") -> list[dict]:
    path = tmp_path / "table.csv"
    path.write_bytes(data.encode(encoding) if isinstance(data, str) else data)
    return [row for _, row in open_table(path).rows()]


@pytest.mark.parametrize(
    ("change", "encoding"),
    [
        (lambda text: text, "utf-8"),
        (lambda text: text, "utf-8-sig"),
        (lambda text: text, "utf-16"),
        (lambda text: text.replace(",", ";"), "utf-8"),
        (lambda text: text.replace(",", "\t"), "utf-16"),
        (lambda text: text.replace(",", "|"), "utf-8"),
        (lambda text: text.replace("\n", "\r\n"), "utf-8"),
        (lambda text: text.replace("\n", "\r"), "utf-8"),
        (lambda text: "sep=;\r\n" + text.replace(",", ";"), "utf-8"),
        (lambda text: "\n\n" + text + "\n,,\n\n", "utf-8"),
        (lambda text: text.replace(",", " , "), "utf-8"),
        (lambda text: text.rstrip("\n"), "utf-8"),
        (lambda text: text.replace("\n", ",,\n"), "utf-8"),
        (lambda text: text.replace(",", '","').replace("\n", '"\n"').join('""')[:-2], "utf-8"),
        (lambda text: text.replace(",", '"\t"').replace("\n", '"\n"').join('""')[:-2], "utf-8"),
    ],
)
def test_the_same_table_in_many_dialects(tmp_path, change, encoding):
    assert [
        (row["filename"], row["genus"], row["note"])
        for row in rows(tmp_path, change(PLAIN), encoding)
    ] == [("1.jpg", "Panthera", "big"), ("2.jpg", "Lynx", "small")]


def test_letters_of_western_spreadsheets_survive(tmp_path):
    assert rows(tmp_path, "file,note\n1.jpg,Bär – größe\n", "cp1252")[0]["note"] == "Bär – größe"


def test_quoted_cells_may_hold_delimiters_and_lines(tmp_path):
    (row,) = rows(tmp_path, 'file,note\n1.jpg,"a, ""b""\nc"\n')
    assert row["note"] == 'a, "b"\nc'


def test_tab_separated_exports_may_hold_bare_quotes(tmp_path):
    found = rows(tmp_path, 'file\tnote\n1.jpg\t"Big" cat\n2.jpg\ta 5" stem\n3.jpg\t"quoted"\n')
    assert [row["note"] for row in found] == ['"Big" cat', 'a 5" stem', "quoted"]


def test_a_short_row_lacks_its_last_cells(tmp_path):
    assert rows(tmp_path, "a,b,c\n1\n")[0] == {"a": "1", "b": "", "c": ""}


def test_rows_know_the_line_they_begin_on(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('\na,b\n1,"x\ny"\n\n2,z\n', encoding="utf-8")
    assert [line for line, _ in open_table(path).rows()] == [3, 6]


@pytest.mark.parametrize(
    "header", ["File Name", "file_name", "FILENAME", "dwc:fileName", "file-name"]
)
def test_headers_are_compared_without_their_dress(header):
    assert normal(header) == "filename"


def test_headers_that_differ_by_a_digit_are_different():
    assert normal("Species1") != normal("Species")


def test_the_first_name_that_is_there_wins(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Path,Image\n1,2\n", encoding="utf-8")
    table = open_table(path)
    assert table.column(("filename", "image", "path")) == "Image"
    assert table.column(("genus",)) is None


BROKEN = {
    "absent": (None, "cannot be read"),
    "empty": (b"", "no rows"),
    "blank lines": (b"\n\n \n", "no rows"),
    "header alone": (b"filename,genus\n", "no rows"),
    "header and blank cells": (b"filename,genus\n,\n,\n", "no rows"),
    "spreadsheet file": (b"PK\x03\x04\0\0\0\0xl/workbook", "not a text table"),
    "older spreadsheet file": (b"\xd0\xcf\x11\xe0\xa1\xb1", "but a workbook; save its sheet"),
    "two columns of one name": (b"file,genus,genus\n1,a,b\n", "two columns are called 'genus'"),
    "too many cells": (b"file,genus\n1,a\n2,b,c\n", "line 3: 3 cells under 2 columns"),
    "unclosed quote": (b'file,genus\n1,a\n2,"b\n3,c\n', "row from line 3: .*check its quotes"),
    "text behind a quote": (b'file,genus\n1,"a"b\n', "row from line 2: .*check its quotes"),
    "endless cell": (b"file,genus\n1," + b"a" * 200_000 + b"\n", "row from line 2: field larger"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_table_is_one_sentence_that_names_it(tmp_path, kind):
    data, sentence = BROKEN[kind]
    path = tmp_path / "table.csv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=sentence) as caught:
        list(open_table(path).rows())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_that_begins_with_the_letters_of_a_zip_is_no_workbook(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("PK,genus\n1,Ignis\n")
    assert [row["PK"] for _, row in open_table(path).rows()] == ["1"]
