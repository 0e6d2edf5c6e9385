import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from jaxgen.data import records
from jaxgen.errors import ConfigError

WORDS = ["null", "NA", "None", "nan", "NULL", "n/a", "007", "1e5", "true", "-"]


def save(path, rows):
    """Rows of text and label, by the file's ending."""
    kind = path.name.lower().removesuffix(".gz").rsplit(".")[-1]
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if kind == "json":
        raw = json.dumps(rows)
    elif kind == "jsonl":
        raw = "\n".join(map(json.dumps, rows))
    else:
        sep = "," if kind == "csv" else "\t"
        raw = "\n".join([f"text{sep}label", *(f"{r['text']}{sep}{r['label']}" for r in rows)])
    data = raw.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.json", "a.jsonl", "a.JSONL", "a.parquet"])
def test_cells_are_read_as_they_stand(tmp_path, name):
    rows = [{"text": w, "label": i} for i, w in enumerate(WORDS)]
    got = records.read(save(tmp_path / name, rows), "text", "label")
    assert got.text == WORDS
    assert got.label == list(range(len(WORDS)))


def test_csv_with_quotes_marks_and_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    raw = '\ufefftext , label\r\n"one\r\ntwo, ""three""",a\r\n\r\nfour\u2028\x0c\x85five,b\r\n'
    path.write_bytes(raw.encode())
    got = records.read(path, "text", "label")
    assert got.text == ['one two, "three"', "four five"]
    assert got.label == ["a", "b"]
    assert [got.place(i) for i in range(2)] == [f"{path}, line 2", f"{path}, line 5"]


def test_one_column_may_hold_its_own_name_and_long_cells(tmp_path):
    long = "w " * 100_000
    (tmp_path / "a.csv").write_text(f"text\ntext\n\n{long}\n")
    assert records.read(tmp_path / "a.csv", "text").text == ["text", long.strip()]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ('text,label\na,1\n"b,2\nc,3\n', "line 3', allowed: a row of a table"),
        ("text,label\na,1\nb,2,3\n", r"line 3 is \['b', '2', '3'\], allowed: 2 fields"),
        ("text,label\na,1\nb\n", r"line 3 is \['b'\], allowed: 2 fields"),
        ("text,label\na,1\ntext,label\n", "line 3 is .*not the header once more"),
        ("text,label,label\na,1,2\n", "is 'label', allowed: a column of .*, named once"),
        ("text,stars\na,1\n", "is 'label', allowed: a column of text,stars"),
        ("text,label\n", "at least one row"),
        ("text,label\n  ,1\n", "at least one row"),
        ("", "is 'text'"),
    ],
)
def test_bad_csv_is_named(tmp_path, raw, message):
    (tmp_path / "bad.csv").write_text(raw)
    with pytest.raises(ConfigError, match=message) as e:
        records.read(tmp_path / "bad.csv", "text", "label")
    assert "bad.csv" in str(e.value)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("bad.jsonl", '{"text": "a"}\n\n{"text": \n', "line 3', allowed: JSON"),
        ("bad.jsonl", '{"text": "a"}\n{"words": "a"}\n', "line 2 is 'text', allowed: one of words"),
        ("bad.jsonl", '{"text": "a"}\n{"text": ["b"]}\n', "line 2 is 'list'"),
        ("bad.jsonl", '{"text": "a\\ud800"}\n', "line 1 .*UTF-8"),
        ("bad.json", '[{"text": "a"}, "b"]', "row 2 is 'str'"),
        ("bad.json", "[" * 100_000, "JSON"),
        ("bad.parquet", "PAR1", "a Parquet file"),
        ("bad.parquet.gz", "", "file ending in"),
        ("bad.txt", "", "file ending in"),
    ],
)
def test_bad_files_are_named(tmp_path, name, raw, message):
    (tmp_path / name).write_text(raw)
    with pytest.raises(ConfigError, match=message) as e:
        records.read(tmp_path / name, "text")
    assert name in str(e.value)


def test_rows_without_a_sentence_are_left_out(tmp_path):
    rows = [{"text": None, "label": None}, {"text": " ", "label": 1}, {"text": 0, "label": 2}]
    got = records.read(save(tmp_path / "a.jsonl", rows), "text", "label")
    assert (got.text, got.label, list(got.row)) == (["0"], [2], [3])
