"""Language models as judges: what counts as a token, perplexity by hand, and reverse perplexity."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.data.tokens import TokenShape
from jaxgen.evaluators.language_model import (
    LanguageModel,
    LanguageModelOptions,
    lm_nll,
    lm_task,
    real_tokens,
)
from jaxgen.models import bert, gpt2
from jaxgen.train.runs import Runs, TrainOptions

SHAPE = TokenShape(size=9, source_size=9, length=5, begin=1, end=2, unknown=3, source_pad=0)


def sentences(words, count=64):
    """Three of these tokens, then the end token."""
    ids = np.random.default_rng(0).choice(words, (count, 5)).astype(np.int32)
    ids[:, 3:] = SHAPE.end
    return ids


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    options = TrainOptions(batch_size=16, warmup=1, log_every=20, ema_decay=0.0)
    runs = Runs(tmp_path_factory.mktemp("judge"), mesh, options, may_train=False)
    sizes = LanguageModelOptions(
        width=16, depth=1, heads=2, steps=40, reverse_steps=40, learning_rate=1e-2
    )
    return LanguageModel.train(runs, sizes, SHAPE, sentences([4, 5]))


def test_positions_count_up_to_the_end_token():
    ids = np.array([[4, 5, 2, 2, 2], [4, 2, 5, 2, 4], [4, 5, 6, 7, 8]], np.int32)
    want = [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert real_tokens(ids, SHAPE).astype(int).tolist() == want


def test_nats_of_a_row_by_hand():
    model = gpt2.GPT(gpt2.config(9, width=8, depth=1, heads=2, max_positions=6), rngs=nnx.Rngs(0))
    ids = jnp.asarray([[4, 5, 2, 2, 2]], jnp.int32)
    nll, count = lm_nll(model, ids, SHAPE.begin, SHAPE.end)
    logp = jax.nn.log_softmax(model(jnp.asarray([[1, 4, 5]], jnp.int32))[0])[0]
    want = -sum(float(logp[i, token]) for i, token in enumerate((4, 5, 2)))
    assert count.tolist() == [3]
    assert float(nll[0]) == pytest.approx(want, rel=1e-5)
    # What follows the end token does not matter.
    other = lm_nll(model, ids.at[0, 3:].set(7), SHAPE.begin, SHAPE.end)[0]
    assert float(other[0]) == pytest.approx(want, rel=1e-5)
    task = lm_task("lm", model.config, SHAPE)
    value, (metrics, _) = task.loss(model, None, {"target": ids}, jax.random.key(0), jnp.int32(0))
    assert float(value) == pytest.approx(want / 3, rel=1e-5)
    assert float(metrics["perplexity"]) == pytest.approx(np.exp(want / 3), rel=1e-4)


def test_perplexity_is_low_on_what_it_was_trained_on(judge):
    seen, unseen = sentences([4, 5]), sentences([6, 7])
    nll, count = lm_nll(judge.model, jnp.asarray(seen), SHAPE.begin, SHAPE.end)
    assert judge.perplexity(seen) == pytest.approx(float(jnp.exp(nll.sum() / count.sum())))
    # Two words are as likely as each other, three times, then the end is sure: 8^(1/4) at best.
    assert 8**0.25 < judge.perplexity(seen) < 3 < 10 < judge.perplexity(unseen)


def test_reverse_perplexity_is_of_a_model_of_the_samples(judge):
    """Trained in a launch that may train nothing else, under a name and a seed of its own."""
    real = sentences([4, 5])
    good = judge.reverse_perplexity("reverse-good", 3, real, real)
    bad = judge.reverse_perplexity("reverse-bad", 3, sentences([4]), real)
    assert good < bad
    rows = (judge.runs.workdir / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(r)["run"] for r in rows} == {
        "judge_lm-1000",
        "reverse-good-3",
        "reverse-bad-3",
    }


def test_features_are_the_mean_state_up_to_the_end_token(judge):
    ids = np.array([[4, 5, 2, 2, 2], [4, 4, 5, 4, 5]], np.int32)
    got = judge.features(ids)
    assert got.shape == (2, 16)
    states = judge.model.hidden(jnp.asarray([[1, 4, 5]], jnp.int32))[0][0]
    np.testing.assert_allclose(got[0], states.mean(0), atol=1e-5)
    other = ids.copy()
    other[0, 3:] = 7  # what follows the end token does not matter
    np.testing.assert_allclose(judge.features(other), got, atol=1e-6)


def test_mean_of_no_state_is_zero():
    assert bert.mean_pool(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), bool)).tolist() == [[0.0] * 3]
