"""Style transfer: a small whole run, and what G is told and shown."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.style_transfer import grammar, yelp
from experiments.style_transfer import study
from jaxgen.data.tokens import TokenShape
from jaxgen.errors import ConfigError

TINY = {
    "train.steps": 4,
    "train.save_every": 4,
    "train.log_every": 4,
    "train.batch_size": 8,
    "model.decoder_width": 16,
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
    "classifier.steps": 4,
    "classifier.width": 8,
    "judge.width": 16,
    "judge.depth": 1,
    "judge.heads": 2,
    "judge.steps": 4,
    "transfer.content_weights": (1.0,),
    "evaluate.count": 20,
    "data.limit": 300,
}
V = TokenShape(size=9, source_size=9, length=5, begin=1, end=2, unknown=3, source_pad=0)


def tiny(**changes):
    config = grammar.get_config()
    config.update_from_flattened_dict(TINY | changes)
    study.validate(config)
    return config


def test_shipped_configs_are_valid():
    for module in (grammar, yelp):
        study.validate(module.get_config())


@pytest.mark.slow
def test_a_run_judges_both_content_losses_and_again_from_checkpoints(tmp_path, one_device):
    config = tiny()
    study.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [r["loss"] for r in results["systems"]] == ["ce", "eisl"]
    assert all(0 <= r["accuracy"] <= 1 for r in results["systems"])
    # Sentences that stay as they are keep all content and have none of the style.
    assert results["unchanged"]["bleu"] == pytest.approx(100)
    assert results["unchanged"]["accuracy"] == 0
    assert results["floors"]["copy of the input"] == results["unchanged"]
    assert 0.5 <= results["floors"]["majority class"]["accuracy"] < 1
    report = (tmp_path / "report.md").read_text()
    assert "\n| copy of the input | – | 0.00 | 100 | " in report
    assert "\n| majority class | – | " in report
    assert "Cut: none of train, valid, test." in report
    trained = (tmp_path / "metrics.jsonl").read_text()
    study.evaluate_again(config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["systems"] == results["systems"]
    assert (tmp_path / "metrics.jsonl").read_text() == trained


def test_the_style_is_told_by_the_first_token():
    x = jnp.asarray([[4, 5, 2, 0, 0], [6, 2, 0, 0, 0]])
    told = study.prepend_style_token(x, jnp.asarray([0, 1]), V)
    assert told.tolist() == [[9, 4, 5, 2, 0, 0], [10, 6, 2, 0, 0, 0]]
    model = study.build(tiny(), V, nnx.Rngs(0))
    zero, one = (study.written_logits(model, V, x, x, jnp.full(2, s), None) for s in (0, 1))
    assert zero.shape == (2, 5, 9)
    assert np.abs(zero - one).max() > 1e-4


def test_the_loss_is_its_three_terms():
    """With content "ce" and weight 0 there is no gradient from it; with weight 1 it adds up."""
    config = tiny(**{"model.dropout": 0.0})
    classifier = study.classifier_task(config, V).build(jax.random.key(1))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(3, 9, (4, 5))).at[:, 4].set(2)
    batch = {"target": x, "style": jnp.asarray([0, 1, 0, 1])}
    values = {}
    for content in ("ce", "eisl"):
        task = study.task(config, V, classifier, content, 0.5)
        model, extra = task.build(jax.random.key(0)), task.extra()
        value, (parts, kept) = jax.jit(task.loss)(model, extra, batch, jax.random.key(2), 0)
        assert jax.tree.all(jax.tree.map(np.array_equal, kept, classifier))  # it is not trained
        want = parts["repeat"] + config.transfer.style_weight * parts["style"]
        assert float(value) == pytest.approx(float(want + 0.5 * parts["content"]), rel=1e-6)
        values[content] = parts
    assert values["ce"]["repeat"] == values["eisl"]["repeat"]
    assert values["ce"]["content"] != values["eisl"]["content"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("losses", ("pg",), "losses is .*, allowed: some of ce, eisl, each once"),
        ("losses", ("ce", "ce"), "losses is"),
        ("losses", (), "losses is"),
        ("classifier.word_dropout", 1.0, "classifier.word_dropout is 1"),
        ("transfer.content_weights", (), "transfer.content_weights"),
        ("transfer.temperature", 0.0, "transfer.temperature is 0"),
        ("operators.attributes", ("tense",), "operators.attributes"),
    ],
)
def test_bad_fields(field, value, message):
    config = grammar.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        study.validate(config)
