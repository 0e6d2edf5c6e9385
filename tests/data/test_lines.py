import gzip
import io
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data import images, lines, proteins, records
from jaxgen.errors import ConfigError
from jaxgen.models import hf
from jaxgen.text import tokenizers

# Where str.splitlines cuts and an editor does not.
WITHIN = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("ab é" + WITHIN), max_size=6), max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_lines_end_where_an_editor_ends_them(rows, end, last):
    text = end.join(rows) + (end if last and rows else "")
    want = rows if last or not rows or rows[-1] else rows[:-1]
    assert lines.cut(text) == want


def test_mixed_ends_and_blank_lines_are_kept():
    assert lines.cut("a\r\nb\rc\n\n\nd\n\r\n") == ["a", "b", "c", "", "", "d", ""]


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_a_file_without_its_byte_order_mark(tmp_path, zipped):
    raw = "\ufeffgood\u2028food\r\nbad\x00food".encode()
    path = tmp_path / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(raw[:9]) + gzip.compress(raw[9:]) if zipped else raw)
    assert lines.read_lines(path) == ["good\u2028food", "bad\x00food"]


def test_bad_bytes_are_named_with_line_and_byte(tmp_path):
    (tmp_path / "latin").write_bytes(b"\xef\xbb\xbfone\r\ntwo\xe2\x80\xa8\ncaf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin, line 3'.*UTF-8.*byte 19 is 0xe9"):
        lines.read_lines(tmp_path / "latin")
    (tmp_path / "half").write_bytes(b"one\n\xe2\x80")
    with pytest.raises(ConfigError, match=r"half, line 2'.*byte 5 is 0xe2"):
        lines.read_lines(tmp_path / "half")


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be"])
def test_other_unicode_is_refused(tmp_path, codec):
    (tmp_path / "wide").write_bytes("good food\n".encode(codec))
    with pytest.raises(ConfigError, match=r"wide.*UTF-8"):
        lines.read_lines(tmp_path / "wide")


def test_damaged_gzip_files_are_named(tmp_path):
    whole = gzip.compress(b"some words here\n" * 500)
    hole = whole[:30] + bytes(20) + whole[50:]
    flipped = whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]
    for raw in (b"", b"not gzip", whole[:5], whole[:60], whole[:-1], hole, flipped, whole + b"x"):
        (tmp_path / "a.gz").write_bytes(raw)
        with pytest.raises(ConfigError, match=r"a\.gz', allowed: a file that can be read whole"):
            lines.read_lines(tmp_path / "a.gz")
    with pytest.raises(ConfigError, match="an existing text file"):
        lines.read_lines(tmp_path)


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b""))
    assert lines.read_lines(tmp_path / "a") == lines.read_lines(tmp_path / "b.gz") == []


def test_standard_input(monkeypatch):
    raw = io.BytesIO("\ufeffone\u2028two\r\nthree".encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(raw, encoding="ascii"))
    assert lines.read_stdin() == ["one\u2028two", "three"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff"), encoding="utf-8"))
    with pytest.raises(ConfigError, match="standard input, line 2"):
        lines.read_stdin()


def test_a_name_that_no_file_system_takes():
    """Of pathlib some functions raise OSError there."""
    name = "x" * 5000
    for read in (
        lambda: lines.read_lines(pathlib.Path(name)),
        lambda: records.read(pathlib.Path(f"{name}.csv"), "text"),
        lambda: proteins.read_csv(pathlib.Path(f"{name}.csv")),
        lambda: images.load("folder", path=name, size=8),
        lambda: tokenizers.check_folder(name),
        lambda: hf.read_config(name),
    ):
        with pytest.raises(ConfigError, match=r"xxx.*allowed: .*(file|folder)"):
            read()
