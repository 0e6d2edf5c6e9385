"""Floors of each study against hand-checked numbers, and how reports show them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from configs.eddpm import grammar, peptides
from configs.moe import dts
from experiments.dts_gate import report as dts_report
from experiments.eddpm import image_report, sequences
from experiments.flexmoe import report as flexmoe_report
from experiments.latentops import methods
from jaxgen.data.images import Images
from jaxgen.data.tokens import TextSplit, Vocabulary
from jaxgen.evaluators.controlled_text import ControlledText
from jaxgen.train import tables


def test_rules_stand_below_the_systems_and_have_no_rank():
    rows = [
        {"system": s, "seed": 0, "x": v, "y": 1.0, "z": 3.0} for s, v in (("a", 2.0), ("b", 1.0))
    ]
    floors = {"constant": {"x": 0.5, "y": 2.0, "unseen": 1.0}, "nothing seen": {"unseen": 1.0}}
    columns = {"x": "X ↑", "y": "Y", "z": "Z"}
    table, ranks = tables.comparison_table(rows, columns, ranked=["x"], rules=floors)
    assert ranks == {"a": 1.0, "b": 2.0}  # as without the rules
    assert table.splitlines()[2:] == [
        "| a | **2.00** | **1.00** | 1.00 | 3.00 |",  # the best of columns with an arrow
        "| b | 1.00 | 2.00 | 1.00 | 3.00 |",
        "| constant | 0.500 | – | 2.00 | – |",
    ]


def letters(rows):
    return ["".join(" ABC"[i] for i in row).replace(" ", "") for row in np.asarray(rows)]


def test_sequences_have_a_consensus_a_copy_a_unigram_model_and_a_majority():
    v = Vocabulary(4, 4, 3, 0, 0, 0, 0, decode=letters, encode=lambda texts: {})

    def part(ids, label):
        ids = np.array(ids, np.int32)
        return TextSplit(letters(ids), {"source": ids, "target": ids}, v, np.array(label))

    train = part([[1, 2, 0], [1, 2, 0], [3, 2, 0]], [1, 1, 0])
    test = part([[1, 2, 0], [1, 3, 0]], [1, 0])
    data = {"train": train, "test": test}
    problem = sequences.SequenceProblem(peptides.get_config(), None, data, None)
    problem.judge = SimpleNamespace(perplexity=lambda ids: float(ids.sum()))
    problem.regressor = SimpleNamespace(predict=lambda ids: ids[:, 0] * 10.0)
    real = {"reverse_ppl": 7.0, "test_ppl": 5.0, "regressor_r2": 0.5, "best_decile": 1.0}
    rows = problem.floor_rows(real)
    # The consensus is AB and the end; of the six tokens of test one is another.
    assert rows["constant consensus"] == {
        "token_accuracy": pytest.approx(5 / 6),
        "exact_match": 0.5,
        "sample_ppl": 3.0,
        "predicted_value": 10.0,
    }
    assert rows["copy of the input"] == {"token_accuracy": 1.0, "exact_match": 1.0}
    # Tokens of train: three ends, two A, three B, one C, each once more.
    p = np.array([4, 3, 4, 2]) / 13
    want = np.exp(-np.log(p[[1, 2, 0, 1, 3, 0]]).mean())
    assert rows["unigram"]["reverse_ppl"] == pytest.approx(want)
    assert rows["majority class"] == {"probe_accuracy": 0.5}
    assert rows["data"] == {"reverse_ppl": 7.0}
    problem.config = grammar.get_config()
    assert 0 <= problem.floor_rows(real)["constant consensus"]["bleu"] < 100


def test_images_have_a_mean_and_a_majority():
    train = np.array([0.0, 1.0], np.float32).reshape(2, 1, 1, 1)
    data = {
        "train": Images(train, np.array([3, 3])),
        "test": Images(np.full((4, 1, 1, 1), 0.75, np.float32), np.array([3, 1, 3, 3])),
    }
    judge = SimpleNamespace(
        features=lambda x: x.reshape(len(x), -1),
        real_train=train.reshape(2, 1),
        real_test=np.array([[0.5], [1.5]]),
    )
    real = {"frechet_floor": 0.1, "nearest_train_mse": 0.2}
    rows = image_report.floor_rows(data, judge, real)
    assert rows["mean image"]["reconstruction_mse"] == pytest.approx(0.0625)
    # A point at 0.5 against mean 1, variance 0.5; and against mean 0.5, variance 0.5.
    assert rows["mean image"]["frechet_test"] == pytest.approx(0.75)
    assert rows["mean image"]["frechet_train"] == pytest.approx(0.5)
    assert rows["majority class"] == {"probe_accuracy": 0.75, "knn_accuracy": 0.75}
    assert rows["data"] == {"frechet_test": 0.1, "nearest_train_mse": 0.2}


def test_edits_have_a_copy_and_generation_has_real_sentences():
    judges = object.__new__(ControlledText)  # with judges that know their answers
    for name, value in {
        "attributes": lambda texts: {"sentiment": np.array([0, 0, 1, 1])},
        "perplexity": lambda texts: 4.0,
        "real_ppl": 2.0,
        "real_self_bleu": 30.0,
        "features": lambda texts: np.array([[len(t), 1.0] for t in texts]),
    }.items():
        object.__setattr__(judges, name, value)
    targets = {"sentiment": np.array([1, 1, 0, 1]), "tense": np.array([0, 0, 2, 1])}
    texts = ["a b c d e"] * 4
    edit = methods.Task("edit", ("sentiment",), np.zeros((4, 2)), targets, texts)
    data = {
        "train": SimpleNamespace(text=["a b c d"]),
        "valid": SimpleNamespace(take=lambda count: SimpleNamespace(text=texts[:count])),
    }
    rows = methods.floor_rows(judges, edit, texts, data)
    assert rows["majority class"] == {"accuracy": 0.75}
    copy = rows["copy of the input"]
    assert (copy["accuracy"], copy["ppl"]) == (0.25, 4.0)
    assert copy["bleu"] == pytest.approx(100.0)
    assert copy["mean"] == pytest.approx((0.25 * 0.5 * 1.0) ** (1 / 3))
    both = methods.Task("generate", ("sentiment", "tense"), edit.u, targets, None)
    rows = methods.floor_rows(judges, both, texts, data)
    assert rows["majority class"] == {"accuracy": 0.5}  # two of four are (1, 0)
    assert rows["data"] == {
        "ppl": 2.0,
        "self_bleu": 30.0,
        "distinct_2": pytest.approx(4 / 16),
        "diversity": pytest.approx(1 / 64),
        "memorised": pytest.approx(1 / 2),  # a b c d, not b c d e
        "mauve": pytest.approx(1.0),
    }


def test_language_models_have_token_frequencies():
    config = dts.get_config()
    config.train.batch_size = 2
    train = np.array([[9, 0, 1], [9, 0, 0]])  # the first token of a window is never predicted
    part = np.array([[9, 0, 0], [9, 1, 1], [9, 5, 5]])  # the third row fills no batch
    corpus = SimpleNamespace(parts={"train": train}, vocab=10)
    want = math.exp(-(2 * math.log(4 / 14) + 2 * math.log(2 / 14)) / 4)
    assert dts_report.unigram_perplexity(config, corpus, part) == pytest.approx(want)
    config.task = "text"
    rule, loss = flexmoe_report.frequencies(SimpleNamespace(config=config, data=corpus))
    want = -(3 * math.log(4 / 14) + math.log(2 / 14)) / 4
    assert (rule, loss) == ("unigram frequencies", pytest.approx(want))
    config.task = "images"
    data = {"train": Images(np.zeros((4, 1, 1, 1), np.float32), np.array([0, 1, 1, 1]))}
    rule, loss = flexmoe_report.frequencies(SimpleNamespace(config=config, data=data))
    assert (rule, loss) == (
        "class frequencies",
        pytest.approx(-(math.log(2 / 6) + 3 * math.log(4 / 6)) / 4),
    )
