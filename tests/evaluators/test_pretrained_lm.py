"""Independent judges: a pretrained language model, and VADER."""

import json

import numpy as np
import pytest

from jaxgen.errors import ConfigError
from jaxgen.evaluators import vader
from jaxgen.evaluators.pretrained_lm import PretrainedLM
from jaxgen.models import gpt2, hf
from jaxgen.text import tokenizers

TEXTS = ["the cat sat on the mat", "a dog", "the dog sat on a cat and the mat", "the mat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of random weights with a tokenizer."""
    from flax import nnx

    path = tmp_path_factory.mktemp("lm")
    tokenizer = tokenizers.train(TEXTS * 3, kind="word", vocab_size=40)
    config = gpt2.config(len(tokenizer), width=16, depth=1, heads=2, max_positions=24)
    hf.save(gpt2.GPT(config, rngs=nnx.Rngs(0)), path)
    tokenizer.save_pretrained(path)
    return path


def test_nats_of_each_text_are_those_of_its_tokens_alone(folder):
    import jax

    lm = PretrainedLM(str(folder), batch=3)
    nats, counts = lm.nll(TEXTS)
    model, tokenizer = hf.load(folder), tokenizers.load(folder)
    begin = tokenizers.special_ids(tokenizer)[0]
    for text, total, count in zip(TEXTS, nats, counts, strict=True):
        ids = tokenizers.tokens(tokenizer, [text])[0]
        logp = jax.nn.log_softmax(model(jax.numpy.array([[begin, *ids[:-1]]]))[0][0])
        want = -sum(float(logp[i, token]) for i, token in enumerate(ids))
        assert count == len(ids)
        assert total == pytest.approx(want, rel=1e-4)
    value = lm.perplexity(TEXTS)
    assert value == pytest.approx(float(np.exp(nats.sum() / counts.sum())), rel=1e-6)


def test_features_are_the_mean_state_over_the_tokens_of_a_text(folder):
    import jax

    lm = PretrainedLM(str(folder), batch=3)
    found = lm.features(TEXTS)
    model, tokenizer = hf.load(folder), tokenizers.load(folder)
    begin = tokenizers.special_ids(tokenizer)[0]
    for text, row in zip(TEXTS, found, strict=True):
        ids = tokenizers.tokens(tokenizer, [text])[0]
        states = model.hidden(jax.numpy.array([[begin, *ids]]))[0][0]
        want = states[1:].mean(0) if ids else np.zeros(found.shape[1])
        np.testing.assert_allclose(row, want, atol=1e-4)


def test_what_it_said_is_kept_for_these_texts_alone(folder, tmp_path):
    lm = PretrainedLM(str(folder), kept=tmp_path)
    value = lm.perplexity(TEXTS)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps({"perplexity": 2.5}))
    assert PretrainedLM(str(folder), kept=tmp_path).perplexity(TEXTS) == 2.5
    assert lm.perplexity(TEXTS[:2]) != 2.5
    path.write_text("{")  # damaged: measured again
    assert lm.perplexity(TEXTS) == pytest.approx(value)


def test_no_texts_have_no_perplexity(folder):
    assert np.isnan(PretrainedLM(str(folder)).perplexity([]))


def test_long_texts_are_cut_at_the_positions(folder):
    _, counts = PretrainedLM(str(folder)).nll(["the cat " * 40])
    assert counts.tolist() == [23]


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"judge\.lm_path is "):
        PretrainedLM(str(tmp_path))


def test_vader_reads_words():
    pytest.importorskip("vaderSentiment", reason="needs vaderSentiment: the extra `judges`")
    texts = ["the food was great", "the food was awful", "we sat down"]
    score = vader.compound(texts)
    assert score[0] > 0.5
    assert score[1] < -0.4
    assert score[2] == 0
    assert vader.accuracy(texts, np.array([1, 0, 1])) == pytest.approx((1 + 1 + 0.5) / 3)
    assert vader.accuracy(texts, np.array([0, 1, 0])) == pytest.approx(0.5 / 3)
