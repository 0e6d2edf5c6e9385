import os
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data import proteins
from jaxgen.errors import ConfigError


def table(path, rows, header="sequence,value"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_reads_and_splits(tmp_path):
    rng = np.random.default_rng(0)
    seqs = ["".join(rng.choice(list(proteins.AMINO_ACIDS), 12)) for _ in range(400)]
    table(tmp_path / "p.csv", [f"{s},{i / 7}" for i, s in enumerate(seqs)])
    parts = proteins.load("csv", path=str(tmp_path), train="p.csv")
    found = {t: v for p in parts.values() for t, v in zip(p.text, p.value, strict=True)}
    assert found == {s: np.float32(i / 7) for i, s in enumerate(seqs)}
    # 400 draws at 0.2: standard deviation 8; four of them are allowed.
    assert abs(len(parts["test"]) - 80) < 32


def test_columns_by_name_and_other_lengths(tmp_path):
    long = "MSKGEELFTG" * 23 + "VVPILVE"
    table(tmp_path / "p.csv", [f"1,{long},0.5", f"2,{long[:-1]}A,1e-3"], "id,seq,score")
    parts = proteins.load(
        "csv",
        path=str(tmp_path),
        train="p.csv",
        sequence_field="seq",
        value_field="score",
        test_fraction=0.0,
        valid_fraction=0.0,
    )
    assert len(long) == 237
    assert parts["train"].text[0] == long
    alphabet = proteins.Alphabet.of(parts["train"].text)
    assert alphabet.encode(parts["train"].text, 240).shape == (2, 240)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("AC1D,0.5", r"line 3 is '1', allowed: letters of"),
        ("acd,0.5", r"line 3 is 'acd'"),
        (",0.5", "line 3 is 'an empty sequence'"),
        ("ACD,", "line 3 is 'a missing value'"),
        ("ACD,high", "line 3 is 'high', allowed: a finite number"),
        ("ACD,nan", "line 3 is 'nan'"),
        ("ACD", r"line 3 is \['ACD'\], allowed: 2 fields"),
        ("ACD,1,2", "line 3.*2 fields"),
        ("ACD,1e300", "line 3 is '1e300', allowed: a finite number that float32 can hold"),
        ("ACD,-3.5e38", "line 3 is '-3.5e38'"),
        ("ACD,-inf", "line 3 is '-inf'"),
        ("ACD,1_000", "line 3 is '1_000'"),
        ("sequence,value", "line 3.*not the header once more"),
        ('"ACD,1', "line 3', allowed: a row of a table"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(tmp_path, row, message):
    path = table(tmp_path / "bad.csv", ["ACD,1.0", row, "ACE,2.0"])
    with pytest.raises(ConfigError, match=message) as e:
        proteins.read_csv(path)
    assert "bad.csv" in str(e.value)


def test_bad_files(tmp_path):
    with pytest.raises(ConfigError, match="an existing CSV file"):
        proteins.read_csv(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="at least two columns"):
        proteins.read_csv(table(tmp_path / "a.csv", [], "sequence"))
    with pytest.raises(ConfigError, match="at least one row"):
        proteins.read_csv(table(tmp_path / "b.csv", []))
    with pytest.raises(ConfigError, match="a column of sequence,value"):
        proteins.read_csv(table(tmp_path / "c.csv", ["A,1"]), value_field="fitness")
    with pytest.raises(ConfigError, match="'Z'"):
        proteins.read_csv(table(tmp_path / "d.csv", ["AZ,1"]), alphabet="ACD")
    with pytest.raises(ConfigError, match="one of csv, AMPvsUniProt"):
        proteins.load("pfam")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(proteins.LETTERS, min_size=1, max_size=9), min_size=1, max_size=8))
def test_alphabet_round_trip(sequences):
    alphabet = proteins.Alphabet.of(sequences)
    ids = alphabet.encode(sequences, 9)
    assert alphabet.decode(ids) == sequences
    assert ids.max() < len(alphabet)
    assert ((ids != proteins.PAD).sum(1) == [len(s) for s in sequences]).all()


def test_alphabet_refuses():
    alphabet = proteins.Alphabet("ACD")
    with pytest.raises(ConfigError, match="at most 2"):
        alphabet.encode(["ACD"], 2)
    with pytest.raises(ConfigError, match="letters of ACD"):
        alphabet.encode(["AXD"], 3)


def test_bundled_peptides():
    pytest.importorskip("modlamp", reason="needs modlamp: install the extra `data`")
    parts = proteins.load("AMPvsUniProt")
    assert sum(map(len, parts.values())) > 4000
    assert set(np.unique(parts["train"].value)) == {0.0, 1.0}
    everything = [t for p in parts.values() for t in p.text]
    assert len(set(everything)) == len(everything)


def test_antibody_file():
    folder = "$JAXGEN_DATA/antibody"
    if not pathlib.Path(os.environ.get("JAXGEN_DATA", ""), "antibody").is_dir():
        pytest.skip("needs the antibody data: set JAXGEN_DATA")
    parts = proteins.load("csv", path=folder, train="train.csv", test="test.csv", limit=500)
    assert len(parts["test"]) > 20_000
    assert {len(t) for t in parts["train"].text} == {20}
    assert set(parts["train"].text[0]) <= set(proteins.LETTERS)


@pytest.mark.parametrize("first", ["ACD,1.5", "ACD,nan", "ACD,1e300", "ACD,", " ACD , 2 "])
def test_a_row_in_place_of_the_header_is_not_lost(tmp_path, first):
    path = table(tmp_path / "p.csv", ["ACE,2.0"], first)
    with pytest.raises(ConfigError, match=r"p\.csv, line 1 is 'ACD,.*a header such as"):
        proteins.read_csv(path)


def test_headers_that_look_a_little_like_rows(tmp_path):
    for header in ("0,1", "SEQ,VALUE", "sequence,2"):
        assert proteins.read_csv(table(tmp_path / "p.csv", ["ACE,2"], header)).text == ["ACE"]


def test_a_table_of_excel_and_one_in_gzip(tmp_path):
    import gzip

    raw = b"\xef\xbb\xbfsequence , value\r\n\r\n ACD,1.5\r\nACE,3.4e38\r\n"
    (tmp_path / "p.csv").write_bytes(raw)
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(raw))
    for name in ("p.csv", "p.csv.gz"):
        rows = proteins.read_csv(tmp_path / name, sequence_field="sequence", value_field="value")
        assert rows.text == ["ACD", "ACE"]
        assert rows.value.tolist() == [1.5, np.float32(3.4e38)]
    (tmp_path / "p.csv").write_bytes(raw + b"AC\xff,1\r\n")
    with pytest.raises(ConfigError, match=r"p\.csv, line 5.*0xff"):
        proteins.read_csv(tmp_path / "p.csv")


def test_a_column_named_twice_and_a_negative_limit(tmp_path):
    table(tmp_path / "p.csv", ["ACD,1,2"], "sequence,value,value")
    assert proteins.read_csv(tmp_path / "p.csv").value.tolist() == [1.0]
    with pytest.raises(ConfigError, match=r"'value', allowed: a column of .*, named once"):
        proteins.read_csv(tmp_path / "p.csv", value_field="value")
    with pytest.raises(ConfigError, match=r"data\.limit is -2"):
        proteins.load("csv", path=str(tmp_path), train="p.csv", limit=-2)
