"""Language models as discriminators: a small whole run, what each system's loss is made of, what stays frozen."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs.lm_discriminator import decipher, decipher_yelp, paper, yelp
from experiments.lm_discriminator import corpus as corpora
from experiments.lm_discriminator import generation, report, study, tasks
from experiments.lm_discriminator.systems import SYSTEMS
from jaxgen.data.tokens import TokenShape
from jaxgen.errors import ConfigError
from jaxgen.models import gpt2
from jaxgen.nn.textcnn import TextCNN
from jaxgen.text.masking import eos_mask
from jaxgen.train import state as state_lib
from jaxgen.train import step as step_lib

TINY = {
    "train.steps": 4,
    "train.save_every": 4,
    "train.log_every": 4,
    "train.batch_size": 4,
    "model.width": 16,
    "lm.width": 16,
    "lm.depth": 1,
    "lm.heads": 2,
    "lm.steps": 4,
    "classifier.steps": 4,
    "classifier.width": 8,
    "autoencoder.steps": 4,
    "evaluate.every": 2,
    "data.limit": 1500,
    "data.train_rows": 200,
    "data.valid_rows": 20,
    "data.test_rows": 45,
}
V = TokenShape(size=9, source_size=9, length=6, begin=1, end=2, unknown=3, source_pad=0)
X = jnp.asarray([[3, 4, 5, 2, 0, 0], [6, 7, 8, 3, 4, 2]], jnp.int32)
BATCH = {"0": X, "1": X[::-1]}


def tiny(**changes):
    config = decipher.get_config()
    config.update_from_flattened_dict(TINY | changes)
    study.validate(config)
    return config


def players(config, name):
    start = generation.generator(config, V, jax.random.key(1))
    spec = tasks.lm_config(config, V)
    lms = tuple(gpt2.GPT(spec, rngs=nnx.Rngs(i)) for i in range(2))
    classifier = TextCNN(V.size, 2, width=8, rngs=nnx.Rngs(3))
    return tasks.task(config, V, name, SYSTEMS[name], start, lms, classifier)


def loss_of(config, name, step):
    task = players(config, name)
    model = task.pretrained(task.build(jax.random.key(0)))

    def loss(model, extra, step):
        value, (aux, _) = task.loss(model, extra, BATCH, jax.random.key(2), step)
        return value, aux

    run = jax.jit(loss)
    value, aux = run(model, task.extra(), jnp.asarray(step))
    return float(value), {k: float(v) for k, v in aux.items()}, model


def test_shipped_configs_are_valid():
    for module in (decipher, decipher_yelp, paper, yelp):
        study.validate(module.get_config())


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_systems_loss_is_its_terms(name):
    config, t, system = tiny(), decipher.get_config().transfer, SYSTEMS[name]
    value, aux, model = loss_of(config, name, t.ramp)
    want = aux["repeat"] + (t.cycle_weight * aux["cycle"] if system.back else 0)
    want += t.lm_weight * aux["lm"] if system.lm else 0
    want += t.classifier_weight * aux["style"] if system.classifier else 0
    want += t.critic_weight * aux["fooled"] + aux["critic"] if system.critic else 0
    want += aux["lm_learns"] if system.learned_lm else 0
    want += t.content_weight * aux["content"] if system.content else 0
    assert value == pytest.approx(want, rel=1e-5)
    assert ("lm" in aux, "style" in aux) == (system.lm, system.classifier)
    # What is frozen is no part of what is trained.
    assert (model.lms is not None) == system.learned_lm
    assert (model.critic is not None) == system.critic


@pytest.mark.parametrize("end", [0, 2])
def test_eisl_as_content_stays_finite_where_the_end_is_forced(end):
    """All other tokens have the lowest logit there is at that place."""
    config, key = tiny(task="sentiment"), jax.random.key(0)
    g = generation.generator(config, V, key)

    def loss(g):
        _, log_q, said = generation.write(config, V, g, X[:, :4], jnp.asarray([0, 1]), key, 0.5)
        x = X[:, :4].at[:, 3].set(end)
        each = tasks.content_losses("eisl", (1, 2), log_q, said, x, eos_mask(x, V.end))
        return each.mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(g)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(grads))


@pytest.mark.slow
def test_at_step_0_no_reader_is_asked():
    """The weights of language models rise from 0; then only their own learning counts."""
    value, aux, _ = loss_of(tiny(), "lm", 0)
    assert value == pytest.approx(aux["repeat"] + aux["cycle"], rel=1e-5)


def test_a_step_moves_the_generator_and_leaves_the_language_models_bit_for_bit():
    task, tx = players(tiny(), "lm"), optax.sgd(0.1)
    init = lambda key: state_lib.create(task.build, tx, key, use_ema=False, extra=task.extra)  # noqa: E731
    state = jax.jit(init)(jax.random.key(0))
    before = jax.tree.map(np.array, (state.model, state.extra))
    after, metrics = step_lib.make_step(task.loss, tx)(state, BATCH)
    for a, b in zip(*map(jax.tree.leaves, (before[1], after.extra)), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = [
        np.abs(a - b).max()
        for a, b in zip(*map(jax.tree.leaves, (before[0], after.model)), strict=True)
    ]
    assert min(moved) > 0
    assert float(metrics["grad_norm"]) > 0


def test_written_text_is_as_long_as_its_source_unless_it_may_end_early():
    config = tiny()
    g = generation.generator(config, V, jax.random.key(0))
    text, log_q, said = generation.write(
        config, V, g, X, jnp.asarray([0, 1]), jax.random.key(1), 0.5
    )
    np.testing.assert_array_equal(said, eos_mask(X, V.end))
    np.testing.assert_array_equal(eos_mask(text.argmax(-1), V.end), eos_mask(X, V.end))
    np.testing.assert_allclose(jnp.exp(log_q).sum(-1), 1, rtol=1e-5)
    config.task = "sentiment"
    assert generation.ends_are_free(config)
    assert generation.last_places(V, X, free=True).tolist() == [5, 5]
    assert generation.last_places(V, X, free=False).tolist() == [3, 5]


def test_text_written_in_parallel_is_drawn_given_the_greedy_text():
    """Its likeliest tokens are the greedy ones, and no token's gradient reaches those before it."""
    g, style = generation.generator(tiny(), V, jax.random.key(0)), jnp.asarray([0, 1])
    own = generation.greedy(V, g, X, style, free=False)
    draw = lambda config, g, key: generation.write_in_parallel(config, V, g, X, style, key, 0.5)  # noqa: E731
    _, log_q, said = draw(tiny(), g, jax.random.key(1))
    np.testing.assert_array_equal(said, eos_mask(own, V.end))
    np.testing.assert_array_equal(said, eos_mask(X, V.end))
    words = said & (own != V.end)
    log_q = jnp.where(jnp.arange(V.size) == V.end, -jnp.inf, log_q)  # where text may not yet end
    np.testing.assert_array_equal(log_q.argmax(-1)[words], own[words])
    many = jax.vmap(lambda key: draw(tiny(), g, key).text.argmax(-1))(
        jax.random.split(jax.random.key(2), 3000)
    )
    share = jnp.asarray(many == own).mean(0)
    logits = g(X, eos_mask(X, V.end), style, own)
    p = jnp.take_along_axis(jax.nn.softmax(logits), own[..., None], -1)[..., 0]
    assert (jnp.abs(share - p) < 4 * jnp.sqrt(p * (1 - p) / 3000) + 1e-3).all()


def test_corrupted_text_lost_words_and_keeps_its_end():
    x = jnp.tile(jnp.asarray([[3, 4, 5, 6, 7, 2]], jnp.int32), (400, 1))
    out = np.asarray(tasks.corrupt(x, jax.random.key(0), V))
    ends = (out == V.end).argmax(1)
    assert ((out == V.end).sum(1) == 1).all()
    assert abs(ends.mean() - 4.5) < 4 * np.sqrt(5 * 0.09 / 400)
    whole = out[ends == 5]
    assert (np.sort(whole[:, :5]) == [3, 4, 5, 6, 7]).all()
    assert 0.2 < (whole[:, :5] != [3, 4, 5, 6, 7]).any(1).mean() < 1
    assert (np.abs(whole[:, :5] - 3 - np.arange(5)) <= tasks.REACH).all()


def test_the_scatter_is_what_a_line_leaves():
    steps = np.arange(20.0)
    assert report.scatter(steps, 3 * steps) == pytest.approx(0, abs=1e-9)
    noise = np.tile([1.0, -1.0], 10)
    assert report.scatter(steps, 3 * steps + noise) == pytest.approx(1.1, abs=0.1)
    assert np.isnan(report.scatter([], []))


@pytest.mark.slow
def test_a_run_reads_the_cipher_and_again_from_checkpoints(tmp_path, one_device):
    config = tiny(systems=("lm", "lm_learned"))
    study.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [r["system"] for r in results["systems"]] == ["LM", "LM, learning"]
    rules = results["floors"]
    assert rules["frequency matching"]["bleu"] > rules["copy"]["bleu"] > 10
    assert rules["+ hill climbing"]["key_accuracy"] > rules["frequency matching"]["key_accuracy"]
    assert rules["copy"]["key_accuracy"] == 0
    assert "valid_bleu" in (tmp_path / "metrics.jsonl").read_text()
    study.evaluate_again(config, tmp_path)
    again = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert [r["bleu"] for r in again] == [r["bleu"] for r in results["systems"]]


@pytest.mark.slow
def test_a_run_on_two_sentiments(tmp_path, one_device):
    config = tiny(systems=("lm_classifier",), task="sentiment")
    study.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (row,) = results["systems"]
    assert 0 <= row["accuracy"] <= 1
    assert row["ppl_0"] > 1
    assert results["floors"]["copy"]["copies"] == 1.0
    assert results["floors"]["real target text"]["accuracy_words"] > 0.9


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.share", 1.5, r"data\.share is 1\.5, allowed: 0 to 1"),
        ("systems", ("gan",), "systems is .*, allowed: some of autoencoder, classifier"),
        ("task", "translate", "task is 'translate', allowed: one of decipher, sentiment"),
        ("data.max_words", 15, r"data\.max_words is 15, allowed: below data\.max_tokens, 15"),
        ("lm.heads", 5, r"lm\.heads is 5, allowed: a divisor of 96"),
        ("model.width", 7, r"model\.width is 7, allowed: an even number"),
        ("transfer.end", 0.0, r"transfer\.end is 0"),
        ("transfer.gamma", -1.0, r"transfer\.gamma is -1"),
        (
            "transfer.ngrams",
            (3, 25),
            r"transfer\.ngrams is \(3, 25\), allowed: n-grams of at most 15",
        ),
        ("data.limit", 0, r"data\.limit is 0, allowed: 1 to"),
    ],
)
def test_bad_fields(field, value, message):
    config = decipher.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        study.validate(config)


def languages(folder, **changes):
    """Two made-up languages: the second has the first one's words with another ending."""
    words = ["".join(w) for w in zip("abcdefgh" * 8, "aeiou" * 13, "klmnprst" * 8, strict=False)]
    one = [" ".join(words[i % 40 + j] for j in range(3 + i % 4)) for i in range(60)]
    two = [" ".join(f"{w}o" for w in line.split()) for line in one]
    files = {"train.1": one[:40], "train.2": two[20:60], "test.1": one, "test.2": two}
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    shape = {
        "task": "related",
        "data.source": "files",
        "data.path": str(folder),
        "data.train": ("train.1", "train.2"),
        "data.test": ("test.1", "test.2"),
        "data.valid_rows": 10,
        "data.test_rows": 30,
        "data.max_words": 6,
    }
    return tiny(**shape | changes)


def test_related_languages_are_tested_on_their_pairs(tmp_path):
    corpus = corpora.load(languages(tmp_path), tmp_path)
    assert [len(part.text) for part in corpus.valid] == [10, 10]
    assert [len(part.text) for part in corpus.test] == [30, 30]
    assert corpus.test[0].reference == corpus.test[1].text
    assert corpus.test[1].reference == corpus.test[0].text
    assert corpus.train[0].reference is None
    floors = report.baselines(corpus)
    assert set(floors) == {"copy"}
    assert floors["copy"]["bleu"] == 0
    truth = [part.reference for part in corpus.test]
    best = report.numbers(corpus, truth, None)
    assert best["bleu"] == pytest.approx(100)
    assert best["token_accuracy"] == 1
    assert set(report.RELATED) - {"scatter"} == set(best)


@pytest.mark.parametrize(
    ("lines", "changes", "what"),
    [
        (59, {}, "59 and 60 lines"),
        (60, {"data.valid_rows": 60}, "60 pairs"),
        (60, {"data.max_words": 2}, "data.train is .train.1."),
    ],
)
def test_files_that_are_no_pair_of_languages(tmp_path, lines, changes, what):
    config = languages(tmp_path, **changes)
    test = tmp_path / "test.1"
    test.write_text("\n".join(test.read_text("utf-8").splitlines()[:lines]) + "\n", "utf-8")
    with pytest.raises(ConfigError, match=what):
        corpora.load(config, tmp_path)


def test_related_languages_have_two_files_of_each():
    config = paper.get_config()
    config.data.test = ("test.sr",)
    with pytest.raises(ConfigError, match="two file names"):
        study.validate(config)
