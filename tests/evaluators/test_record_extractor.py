"""The learned reader of records: it learns a grammar's statistics, and is trained on train alone."""

import os
import pathlib

import numpy as np
import pytest

from jaxgen.data import style_records
from jaxgen.data.style_records import Fact, StyleRecords
from jaxgen.errors import ConfigError
from jaxgen.evaluators.record_extractor import RecordExtractor
from jaxgen.metrics import records

NBA = pathlib.Path(os.environ.get("JAXGEN_DATA", "../shared/data")) / "rotowire_style"
PLAYERS = ("Ann", "Bo", "Cy", "Dee")


def box_scores(count, seed):
    """Two players a sentence, in one of four forms, with a number that is in no record."""
    rng = np.random.default_rng(seed)
    x, y = [], []
    for _ in range(count):
        a, b = rng.choice(PLAYERS, 2, replace=False)
        p, r, q, n = map(str, rng.choice(np.arange(1, 60), 4, replace=False))
        x.append(
            (
                *(Fact("PLAYER_NAME", name, name) for name in (a, b)),
                Fact("PTS", p, a),
                Fact("REB", r, a),
                Fact("PTS", q, b),
            )
        )
        both = [f"{p} points", f"{r} boards"]
        first, second = both[:: rng.choice([1, -1])]
        forms = (
            f"{a} had {first} and {second} in {n} games , and {b} scored {q} points .",
            f"In {n} games {a} had {first} and {second} , while {b} scored {q} points .",
        )
        y.append(forms[rng.integers(2)])
    return StyleRecords(x, x, y, y)


@pytest.fixture(scope="module")
def judge():
    return RecordExtractor.train(box_scores(150, 0))


def test_it_reads_records_of_sentences_that_it_has_not_seen(judge):
    test = box_scores(60, 1)
    assert judge.labels == ("NONE", "PTS", "REB")
    assert set(judge.names.classes) == set(PLAYERS)
    got = records.score(judge(test.y_aux), test.x, judge.names)
    assert min(got) > 97
    assert judge.pair_accuracy(test) > 0.97
    others = test.x[1:] + test.x[:1]
    assert records.score(judge(test.y_aux), others, judge.names).precision < 10
    # It reads words, not places: all of Ann's points are boards now, and the boards points.
    table = {"points": "boards", "boards": "points"}
    swapped = [" ".join(table.get(w, w) for w in s.split()) for s in test.y_aux]
    assert records.score(judge(swapped), test.x, judge.names).precision < 40


def test_what_it_has_nothing_to_say_of(judge):
    assert judge(["", "She had 5 points .", "Ann and Bo won ."]) == [frozenset()] * 3
    assert judge([]) == []
    assert np.isnan(judge.pair_accuracy(StyleRecords([()], [()], ["no name"], [""])))


def test_it_is_saved_and_restored(judge, tmp_path):
    judge.save(tmp_path / "judge.npz")
    again = RecordExtractor.load(tmp_path / "judge.npz")
    texts = box_scores(20, 2).y_aux
    assert again(texts) == judge(texts)
    assert again.names == judge.names
    (tmp_path / "judge.npz").write_bytes(b"PK")
    for name in ("judge.npz", "other.npz"):
        with pytest.raises(ConfigError, match="record extractor"):
            RecordExtractor.load(tmp_path / name)


def test_training_on_sentences_without_names_is_refused():
    x = (Fact("PTS", "5", "Ann"),)
    with pytest.raises(ConfigError, match=r"data.train is \[\], allowed: sentences with numbers"):
        RecordExtractor.train(StyleRecords([x], [x], ["5 points"], ["5 points"]))


@pytest.mark.slow
@pytest.mark.skipif(not NBA.is_dir(), reason=f"no {NBA}; JAXGEN_DATA says where data lies")
def test_it_tells_real_sentences_from_copies_of_references():
    """Trained on an eighth of the train split. With all of it, gold is 88.6/76.5 on the whole test split."""
    train, test = (style_records.read_parallel(NBA / part, part) for part in ("train", "test"))
    few = StyleRecords(train.x[:4000], train.x_ref[:4000], train.y_aux[:4000], [])
    judge = RecordExtractor.train(few)
    test = test.take(range(2000))
    gold = records.score(judge(test.y_aux), test.x, judge.names)
    copy = records.score(judge(test.y_ref), test.x, judge.names)
    assert gold.precision > 78
    assert gold.recall > 66
    assert max(copy) < 4
    assert judge.pair_accuracy(test) > 0.80
