"""Content manipulation: a small whole run, losses of systems, selection, rewriting, and bad input."""

import dataclasses
import functools
import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.content_manipulation import e2e, grammar, nba, paper
from experiments.content_manipulation import corpus as corpora
from experiments.content_manipulation import edit_page, rewriting, study, tasks
from experiments.content_manipulation.systems import SYSTEMS
from experiments.content_manipulation.writing import ValidScore, content_above_style, write
from jaxgen.data.style_records import Fact, StyleRecords
from jaxgen.errors import ConfigError
from jaxgen.losses.coverage import possible_nll
from jaxgen.text.masking import eos_mask
from jaxgen.train import state as state_lib
from jaxgen.train.selection import BestModel

TINY = {
    "train.steps": 4,
    "train.save_every": 4,
    "train.log_every": 4,
    "train.batch_size": 4,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "model.coverage": 4,
    "judge.width": 16,
    "judge.depth": 1,
    "judge.heads": 2,
    "judge.steps": 4,
    "loss.pure": 1,
    "loss.style_weight": 0.8,
    "loss.ramp": 2,
    "data.limit": 150,
    "data.valid_rows": 6,
    "data.test_rows": 6,
    "evaluate.every": 2,
    "evaluate.beams": 2,
    "evaluate.max_words": 12,
}


def tiny(**changes):
    config = grammar.get_config()
    config.update_from_flattened_dict(TINY | changes)
    study.validate(config)
    return config


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpora.load(tiny(), tmp_path_factory.mktemp("corpus"))


def batch_of(corpus, rows=4):
    part = corpus.parts["train"].take(range(rows))
    return {k: jnp.asarray(a) for k, a in corpus.arrays(part).items()}


def loss_of(corpus, name, step=0, **changes):
    config = tiny(**changes)
    task = tasks.task(config, corpus.vocabulary, name, SYSTEMS[name])
    players = task.build(jax.random.key(0))
    run = jax.jit(lambda *a: task.loss(*a, jax.random.key(1), jnp.asarray(step)))
    value, (aux, _) = run(players, None, batch_of(corpus))
    return float(value), {k: float(v) for k, v in aux.items()}, players


def test_shipped_configs_are_valid():
    for module in (grammar, nba, e2e, paper):
        study.validate(module.get_config())


def test_the_schedule_of_lambda():
    config = tiny(**{"loss.pure": 10, "loss.ramp": 20})
    weight = lambda name, step: float(tasks.style_weight(config, SYSTEMS[name], jnp.asarray(step)))  # noqa: E731
    assert [weight("full", s) for s in (0, 10, 20, 30, 99)] == pytest.approx([1, 1, 0.9, 0.8, 0.8])
    assert weight("lambda_20", 99) == pytest.approx(0.2)


def test_the_full_loss_is_the_two_objectives_with_coverage_inside(corpus):
    config = tiny(**{"model.dropout": 0.0, "loss.coverage_weight": 0.5})
    batch = batch_of(corpus)
    value, aux, players = loss_of(
        corpus, "full", step=9, **{"model.dropout": 0.0, "loss.coverage_weight": 0.5}
    )
    sides = []
    for record, target in (("x", "y_aux"), ("ref", "y_ref")):
        rows = tasks.RecordIds(*(batch[f"{record}_{p}"] for p in ("type", "value", "owner")))
        logp, copied = jax.jit(type(players.writer).logprob)(
            players.writer, rows, batch["y_ref"], batch[target]
        )
        said = eos_mask(batch[target], 2)
        nats, words, _ = possible_nll(logp, said)
        covered = tasks.coverage(config, rows, copied, said)
        sides.append(float((nats + 0.5 * covered).mean()))
        if record == "x":
            assert aux["content"] == pytest.approx(float(nats.sum() / words.sum()), rel=1e-4)
    assert value == pytest.approx(0.2 * sides[0] + 0.8 * sides[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_has_a_finite_loss_and_gradients(corpus, name):
    config = tiny()
    task = tasks.task(config, corpus.vocabulary, name, SYSTEMS[name])
    players = task.build(jax.random.key(0))
    grad = jax.jit(
        jax.grad(lambda p, b: task.loss(p, None, b, jax.random.key(1), jnp.asarray(3))[0])
    )
    norms = [float(jnp.abs(a).max()) for a in jax.tree.leaves(grad(players, batch_of(corpus)))]
    assert np.isfinite(norms).all()
    assert max(norms) > 0
    if name == "advst":
        assert (
            min(
                float(jnp.abs(a).max())
                for a in jax.tree.leaves(grad(players, batch_of(corpus)).judge)
            )
            > 0
        )


@pytest.mark.slow
def test_eisl_may_be_the_style_objective(corpus):
    off = {"model.dropout": 0.0}
    value, aux, _ = loss_of(corpus, "full", step=9, **off, **{"loss.style": "eisl"})
    other, ce, _ = loss_of(corpus, "full", step=9, **off)
    assert aux["style"] == pytest.approx(ce["style"], rel=1e-3)
    assert np.isfinite(value)
    assert value != pytest.approx(other, rel=1e-3)


def test_content_counts_above_the_floor_of_style():
    score = functools.partial(content_above_style, floor=75.0)
    assert score(1.0, 75.0) > score(99.0, 74.9)
    assert score(2.0, 80.0) > score(1.0, 99.0)
    assert score(99.0, 50.0) < score(0.0, 60.0)


@pytest.mark.slow
def test_the_writer_of_the_best_sentences_is_kept(corpus):
    config = tiny()
    score = ValidScore(config, corpus, SYSTEMS["full"], corpus.read)
    players = tasks.task(config, corpus.vocabulary, "full", SYSTEMS["full"]).build(
        jax.random.key(0)
    )
    state = state_lib.TrainState(
        step=2, model=players, ema=None, opt_state=None, extra={}, key=None
    )
    options = {"every": 2, "steps": 4, "part": lambda players: players.writer}
    best = BestModel(score, **options)
    assert [best.due(step) for step in (1, 2, 3, 4)] == [False, True, False, True]
    assert best(1, state) is state
    assert best.model is None  # not due
    best(2, state)
    assert set(score.numbers) == {f"valid_{n}" for n in ("precision", "recall", "f1", "m_bleu")}
    assert best.best[1] >= 0
    again = BestModel(score, **options)
    again.resume(state, best.history())
    assert again.curve == best.curve
    for a, b in zip(jax.tree.leaves(again.model), jax.tree.leaves(players.writer), strict=True):
        np.testing.assert_array_equal(a, b)
    # What is not better leaves the best weights as they are.
    again.curve = [(2, 1e3)]
    kept = again.model
    assert again(4, state) is state
    assert again.model is kept


@pytest.fixture(scope="module")
def model(corpus):
    return tasks.writer(tiny(), corpus.vocabulary, SYSTEMS["full"], jax.random.key(0))


def rewritten(corpus, model, record, reference, **changes):
    asked = [rewriting.request(json.dumps(record), reference)]
    return rewriting.rewrite(tiny(**changes), corpus, model, SYSTEMS["full"], asked)


LONG = [
    ["PLAYER_NAME", "Alado", "Alado"],
    *(["PLAYER-PTS", str(n), "Alado"] for n in range(20, 45)),
]
SHADOWS = [
    ["PLAYER-REB", "7", "Alado"],
    ["PLAYER-DREB", "7", "Alado"],
    ["PLAYER-REB", "7", "Alado"],
]


@pytest.mark.parametrize(
    ("record", "reference"),
    [
        (LONG, "Alado had 5 points ."),  # longer than any of training
        (SHADOWS, "Alado had 5 points ."),
        (
            [["PLAYER_NAME", "Zanzibari", "Zanzibari"]],
            "Alado had 5 points .",
        ),  # nobody saw the value
        ([["HEIGHT", "2.1", "Zanzibari"]], "Alado had 5 points ."),  # nor type and owner
        ([["PLAYER-PTS", "5", "Alado"]], "they lost ."),  # no name in the reference
        ([["PLAYER-PTS", "5", "Alado"]], "never seen words"),
    ],
)
def test_rewriting_copes_with(corpus, model, record, reference):
    (text,) = rewritten(corpus, model, record, reference)
    values = {value for _, value, _ in record}
    copied = set(text.split()) - set(corpus.vocabulary.words[: corpus.vocabulary.generated])
    assert copied <= values


@pytest.mark.parametrize(
    ("record", "reference", "told"),
    [
        ("[]", "a b", "the record is 'empty', allowed: a record of at least one tuple"),
        ("[1]", "a b", "a tuple of the record is 1, allowed: a JSON list of"),
        ('[["PTS", "", "Al"]]', "a b", "a tuple of the record is .*allowed: a JSON list of"),
        ("{", "a b", "record is '{', allowed: a JSON list of"),
        ('[["PTS", "5", "Al"]]', " ", r"rewrite.reference is ' ', allowed: a sentence"),
    ],
)
def test_requests_that_cannot_be(record, reference, told):
    with pytest.raises(ConfigError, match=told):
        rewriting.request(record, reference)


def test_what_does_not_fit_is_one_line(corpus, model):
    with pytest.raises(ConfigError, match=r"rewrite\.reference is 'of 99 words', allowed: at most"):
        rewritten(corpus, model, SHADOWS, "a " * 99)
    many = [["X", f"new{i}", "Al"] for i in range(99)]
    with pytest.raises(ConfigError, match=r"a record is .*allowed: at most 12 values"):
        rewritten(corpus, model, many, "a b")
    asked = [rewriting.request(json.dumps(SHADOWS), "a b")]
    with pytest.raises(ConfigError, match=r"rewrite\.reference_record is ''"):
        rewriting.rewrite(tiny(), corpus, model, SYSTEMS["marked"], asked)


@pytest.mark.slow
def test_tuples_of_padding_change_nothing(corpus, model):
    """A record's distractors are tuples of value 0; real ones always have a value."""
    item = corpus.parts["test"].take([0])
    alone = write(tiny(), corpus, model, SYSTEMS["full"], item, beams=1)
    wide = dataclasses.replace(corpus, tuples=30)
    assert write(tiny(), wide, model, SYSTEMS["full"], item, beams=1) == alone


def test_requests_come_from_the_command_line_or_standard_input(monkeypatch):
    config = tiny(**{"rewrite.record": json.dumps(SHADOWS), "rewrite.reference": "a  b"})
    assert rewriting.requests(config) == [
        rewriting.Request(tuple(Fact(*t) for t in SHADOWS), "a b", ())
    ]
    with pytest.raises(ConfigError, match=r"rewrite\.record is '', allowed: given"):
        rewriting.requests(tiny(**{"rewrite.reference": "a"}))
    line = json.dumps({"record": SHADOWS, "reference": "c d"})
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\n{line}\n"))
    assert [r.reference for r in rewriting.requests(tiny())] == ["c d", "c d"]
    for text, told in (("x\n", "line 1 of the input is 'x'"), ("", r"rewrite\.record is ''")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        with pytest.raises(ConfigError, match=told):
            rewriting.requests(tiny())


def test_changes_of_a_record():
    record = (Fact("PLAYER_NAME", "Al", "Al"), Fact("PTS", "5", "Al"), Fact("REB", "7", "Al"))
    found = dict(rewriting.changed(record))
    assert found["PTS 6"][1] == Fact("PTS", "6", "Al")
    assert found["REB 17"][2] == Fact("REB", "17", "Al")
    assert found["without REB 7"] == record[:2]
    assert found["a name of nobody"][2] == Fact("REB", "7", "Zanzibari")
    assert len(found) == 5


def test_the_page_of_edits_holds_data_as_text(tmp_path):
    bad = "</script><script>alert(1)</script>"
    part = StyleRecords([()], [()], [""], [bad])
    edit = {"item": 0, "change": bad, "record": [["a", bad, "c"]], "text": bad}
    path = edit_page.write(tmp_path, part, [edit], bad, "run")
    text = path.read_text()
    assert "alert(1)</script>" not in text.replace(bad, "")
    assert bad not in text
    inside = text.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(inside)["edits"][0]["text"] == bad


@pytest.mark.slow
def test_a_run_its_report_and_a_sentence_of_it(tmp_path, one_device, capsys):
    config = tiny()
    config.systems = ("full",)
    study.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    titles = [r["system"] for r in results["systems"]]
    assert titles == ["full model", "full model, values once"]
    assert results["systems"][1]["too_often"] == 0
    floors = results["floors"]
    assert floors["copy of the reference"]["m_bleu"] == pytest.approx(100)
    # 150 items do not have all names; with all of them the rules read every sentence exactly.
    assert floors["gold: another style"]["precision"] > 80
    assert floors["rule"]["m_bleu"] > 95
    assert "valid_f1" in (tmp_path / "metrics.jsonl").read_text()
    assert (tmp_path / "edits.html").is_file()
    assert (tmp_path / "samples" / "trade_off.png").is_file()
    study.evaluate_again(config, tmp_path)
    again = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert [r["samples"] for r in again] == [r["samples"] for r in results["systems"]]
    config.rewrite.update(record=json.dumps(SHADOWS), reference="Alado had 5 points .")
    capsys.readouterr()
    study.rewrite(config, tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("systems", ("gan",), "systems is .*, allowed: some of full, no_coverage"),
        ("data.source", "csv", r"data\.source is 'csv', allowed: one of grammar, parallel, table"),
        ("data.content", "names", r"data\.content is 'names', allowed: one of box_score, values"),
        ("data.limit", 0, r"data\.limit is 0, allowed: 100 to"),
        ("data.generated", 4096, r"data\.generated is 4096, allowed: at most data\.vocab_size"),
        ("loss.style_weight", 1.5, r"loss\.style_weight is 1\.5, allowed: 0 to 1"),
        ("loss.style", "bleu", r"loss\.style is 'bleu', allowed: one of ce, eisl"),
        ("loss.coverage_weight", -1.0, r"loss\.coverage_weight is -1"),
        ("loss.eisl_ngrams", (1, 60), r"loss\.eisl_ngrams is .*, allowed: at most data\.max_words"),
        ("model.heads", 5, r"model\.heads is 5, allowed: a divisor of 96"),
        ("evaluate.m_bleu", 101.0, r"evaluate\.m_bleu is 101\.0, allowed: 0 to 100"),
        ("rewrite.system", "rule", r"rewrite\.system is 'rule', allowed: one of full"),
    ],
)
def test_bad_fields(field, value, message):
    config = grammar.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        study.validate(config)
