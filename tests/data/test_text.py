import functools
import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data import corpora, images, text
from jaxgen.errors import ConfigError


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")


def test_files_give_labels_by_place_and_splits_by_hash(tmp_path):
    write(tmp_path / "a.0", [f"bad  meal {i}" for i in range(300)] + ["", "  "])
    (tmp_path / "a.1.gz").write_bytes(gzip.compress(b"\n".join(b"good %d" % i for i in range(200))))
    parts = text.load("files", path=str(tmp_path), train=("a.0", "a.1.gz"), test_fraction=0.2)
    assert sum(map(len, parts.values())) == 500
    for part in parts.values():
        assert [t.startswith("good") for t in part.text] == part.label.astype(bool).tolist()
    # 500 draws at 0.2: standard deviation 9; four of them are allowed.
    assert abs(len(parts["test"]) - 100) < 36
    again = text.load("files", path=str(tmp_path), train=("a.1.gz", "a.0"), test_fraction=0.2)
    assert set(again["test"].text) == set(parts["test"].text)


def test_held_out_files_lose_what_training_knows(tmp_path):
    write(tmp_path / "train", [f"sentence {i}" for i in range(50)])
    write(tmp_path / "test", ["sentence 3", "sentence 99"])
    parts = text.load(
        "files", path=str(tmp_path), train=("train",), test=("test",), valid_fraction=0.0
    )
    assert parts["test"].text == ["sentence 99"]
    assert len(parts["train"]) == 50
    assert parts["train"].label is None


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(tmp_path, kind):
    rows = [{"review": f"text {i}", "stars": "high" if i % 3 else "low"} for i in range(40)]
    path = tmp_path / f"t.{kind}"
    if kind == "jsonl":
        write(path, [json.dumps(r) for r in rows])
    elif kind == "parquet":
        import datasets

        datasets.Dataset.from_list(rows).to_parquet(path)
    else:
        sep = "," if kind == "csv" else "\t"
        write(path, [sep.join(("review", "stars"))] + [sep.join(r.values()) for r in rows])
    options = {"text_field": "review", "label_field": "stars"}
    parts = text.load("table", path=str(tmp_path), train=(path.name,), **options)
    found = {t: y for p in parts.values() for t, y in zip(p.text, p.label, strict=True)}
    assert found == {r["review"]: int(r["stars"] == "low") for r in rows}
    with pytest.raises(ConfigError, match=r"'missing'.*review"):
        text.load("table", path=str(tmp_path), train=(path.name,), text_field="missing")


def test_hub_folder_through_datasets(tmp_path):
    write(tmp_path / "train.csv", ["text,label", *(f"line {i},{i % 2}" for i in range(30))])
    parts = text.load("hf", name=str(tmp_path), label_field="label")
    assert sum(map(len, parts.values())) == 30
    assert set(parts["train"].label.tolist()) == {0, 1}


def test_tfds_prepared_locally(tmp_path):
    """Sentences of a tfds builder, written and read as array_record without TensorFlow."""
    import tensorflow_datasets as tfds

    class TinyReviews(tfds.core.GeneratorBasedBuilder):
        pkg_dir_path = tmp_path
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=2)
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": label})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._rows(0), "test": self._rows(100)}

        def _rows(self, first):
            for i in range(first, first + 100):
                yield i, {"text": f"café  number {i}", "label": i % 2}

        def _generate_examples(self):
            raise NotImplementedError

    TinyReviews(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    parts = text.load("tfds", name="tiny_reviews", path=str(tmp_path), label_field="label")
    got = {t: y for part in parts.values() for t, y in zip(part.text, part.label, strict=True)}
    assert got == {f"café number {i}": i % 2 for i in range(200)}


def test_longer_sentences_are_left_out_of_all_parts(tmp_path):
    write(tmp_path / "a", [" ".join(["w"] * n) + f" {i}" for i, n in enumerate([1, 5, 9] * 20)])
    write(tmp_path / "b", ["one two three", "one two three four five six seven"] * 5)
    parts = text.load("files", path=str(tmp_path), train=("a",), test=("b",), max_words=6)
    assert len(parts["train"]) + len(parts["valid"]) == 40
    assert set(parts["test"].text) == {"one two three"}
    short = text.load("grammar", limit=200, max_words=9)
    assert 0 < sum(map(len, short.values())) < 200


def test_bad_files_are_named(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9 au lait\n")
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "broken.gz").write_bytes(b"not gzip")
    for name, message in [
        ("none", "none', allowed: an existing"),
        ("latin", "latin.*UTF-8"),
        ("empty", "empty.*at least one sentence"),
        ("broken.gz", r"broken\.gz"),
    ]:
        with pytest.raises(ConfigError, match=message):
            text.load("files", path=str(tmp_path), train=(name,))
    with pytest.raises(ConfigError, match=r"data\.source is 'web'"):
        text.load("web")
    with pytest.raises(ConfigError, match="at least one file name"):
        text.load("files", path=str(tmp_path))
    with pytest.raises(ConfigError, match="sum below 1"):
        text.load("grammar", limit=10, test_fraction=1.2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_the_grammar_reads_back_what_it_wrote(seed):
    for review in corpora.grammar(50, seed=seed):
        assert corpora.parse(review.text) == review


def test_the_grammar_is_even_and_seeded():
    rows = corpora.grammar(6000, seed=1)
    assert rows == corpora.grammar(6000, seed=1)
    assert rows != corpora.grammar(6000, seed=2)
    for field, classes in (("sentiment", 2), ("tense", 3), ("formality", 2), ("person", 3)):
        share = np.bincount([getattr(r, field) for r in rows], minlength=classes) / 6000
        # Standard deviation of a share at most 0.0065; four of them are allowed.
        assert np.abs(share - 1 / classes).max() < 0.026
    with pytest.raises(ValueError, match="count is 0"):
        corpora.grammar(0)


@pytest.mark.parametrize(
    "wrong",
    [
        "honestly , i loved the awful soup !",  # verb and adjective disagree
        "honestly , i loved the great soup tomorrow !",  # past verb, future time
        "indeed , i loved the great soup !",  # formal opener, informal end
        "indeed , i loved the great .",
        "indeed , i will loved the great soup .",
        "",
    ],
)
def test_the_grammar_rejects(wrong):
    assert corpora.parse(wrong) is None


def test_english_prose_needs_no_network():
    lines = corpora.english()
    assert len(lines) > 1000
    assert all(4 <= len(line.split()) <= 60 for line in lines)
    words = {w for line in lines for w in line.split()}
    assert {"the", "statement", "object"} <= words
    assert not any("  " in line or line != line.lower() for line in lines)


LABELLED = {"text_field": "text", "label_field": "label", "valid_fraction": 0.2}


def table(path, rows):
    write(path, ["text,label", *(f"{t},{y}" for t, y in rows)])


def test_labels_are_numbered_by_the_train_tables(tmp_path):
    table(tmp_path / "a.csv", [(f"a {i}", "cb"[i % 2]) for i in range(30)])
    table(tmp_path / "b.csv", [(f"b {i}", "a") for i in range(9)])
    table(tmp_path / "test.csv", [(f"test {i}", "bc"[i % 2]) for i in range(9)])
    names = {"train": ("a.csv", "b.csv"), "test": ("test.csv",)}
    parts = text.load("table", path=str(tmp_path), **names, **LABELLED)
    got = {t: y for part in parts.values() for t, y in zip(part.text, part.label, strict=True)}
    assert [got["a 0"], got["a 1"], got["b 0"]] == [2, 1, 0]
    assert [got["test 0"], got["test 1"]] == [1, 2]
    table(tmp_path / "test.csv", [("test 0", "b"), ("test 1", "z")])
    with pytest.raises(ConfigError, match=r"test\.csv, line 3 is 'z', allowed: .*: a, b, c"):
        text.load("table", path=str(tmp_path), **names, **LABELLED)
    table(tmp_path / "test.csv", [("test 0", "b"), ("test 1", "")])
    with pytest.raises(ConfigError, match=r"test\.csv, line 3 is 'a missing label'"):
        text.load("table", path=str(tmp_path), **names, **LABELLED)


def test_whole_numbers_are_in_the_order_of_numbers(tmp_path):
    table(tmp_path / "a.csv", [("one", 10), ("two", 9), ("three", -1)])
    options = LABELLED | {"valid_fraction": 0.0, "test_fraction": 0.0}
    parts = text.load("table", path=str(tmp_path), train=("a.csv",), **options)
    assert parts["train"].label.tolist() == [2, 1, 0]


def test_tables_whose_labels_or_columns_differ_are_refused(tmp_path):
    table(tmp_path / "a.csv", [("one", 1)])
    table(tmp_path / "b.csv", [("two", "pos")])
    write(tmp_path / "c.csv", ["text,stars", "three,1"])
    write(tmp_path / "d.csv", ["label,extra,text", "0,x,four"])
    for other, message in (("b", r"b\.csv, line 2 .*type str"), ("c", r"c\.csv is 'label'")):
        with pytest.raises(ConfigError, match=message):
            text.load("table", path=str(tmp_path), train=("a.csv", f"{other}.csv"), **LABELLED)
    options = LABELLED | {"valid_fraction": 0.0, "test_fraction": 0.0}
    parts = text.load("table", path=str(tmp_path), train=("a.csv", "d.csv"), **options)
    assert parts["train"].text == ["one", "four"]
    assert parts["train"].label.tolist() == [1, 0]


def test_a_limit_keeps_the_shares_of_labels(tmp_path):
    table(tmp_path / "a.csv", [(f"a {i}", i % 2) for i in range(41)])
    parts = text.load("table", path=str(tmp_path), train=("a.csv",), limit=21, **LABELLED)
    label = np.concatenate([part.label for part in parts.values()])
    assert np.bincount(label).tolist() == [11, 10]
    for source in ("table", "grammar", "english"):
        with pytest.raises(ConfigError, match=r"data\.limit is -1"):
            text.load(source, path=str(tmp_path), train=("a.csv",), limit=-1)


def test_files_of_a_test_part_are_labelled_as_those_of_train(tmp_path):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / name, [f"{name} {i}" for i in range(9)])
    load = {"source": "files", "path": str(tmp_path), "valid_fraction": 0.0}
    parts = text.load(**load, train=("a", "b"), test=("c", "d"))
    assert parts["test"].label.tolist() == [0] * 9 + [1] * 9
    assert text.load(**load, train=("a",), test=("b", "c"))["test"].label is None
    for test in (("c",), ("c", "d", "a")):
        with pytest.raises(ConfigError, match=r"data\.test is .*as many files as data\.train"):
            text.load(**load, train=("a", "b"), test=test)


def test_one_sentence_falls_into_one_part(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffonly\u2028one\x0csentence".encode())
    parts = text.load("files", path=str(tmp_path), train=("a",))
    assert [part.text for part in parts.values() if len(part)] == [["only one sentence"]]


def test_options_that_leave_nothing(tmp_path):
    (tmp_path / "train").write_text("three words each\nand these three\n")
    load = functools.partial(text.load, "files", path=str(tmp_path), train=("train",))
    with pytest.raises(ConfigError, match=r"data\.max_words is 2, allowed: more words"):
        load(max_words=2)
    for field in ("valid_fraction", "test_fraction"):
        with pytest.raises(
            ConfigError, match=r"data\.test_fraction is .*nan.*, allowed: 0 or more"
        ):
            load(**{field: float("nan")})
        with pytest.raises(
            ConfigError, match=r"data\.test_fraction is .*nan.*, allowed: test above 0"
        ):
            images.load("digits", **{field: float("nan")})
