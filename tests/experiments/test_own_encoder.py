"""An encoder of one's own: one new file and one line of the config, for EDDPM and its baselines."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.eddpm import grammar
from experiments.eddpm import study, systems
from jaxgen.errors import ConfigError
from tests.experiments.test_eddpm_sequences import TINY

FILE = """
from flax import nnx


class BagEncoder(nnx.Module):
    def __init__(self, vocab_size, out_dim, *, max_len, pad, out_bias, width, depth, heads, rngs):
        self.pad = pad
        self.embed = nnx.Embed(vocab_size, width, rngs=rngs)
        self.out = nnx.Linear(width, out_dim, use_bias=out_bias, rngs=rngs)

    def __call__(self, tokens):
        real = (tokens != self.pad)[..., None]
        return self.out((self.embed(tokens) * real).sum(1) / real.sum(1).clip(1))


number = 3
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "my_encoder.py").write_text(FILE)
    (tmp_path / "broken_encoder.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = grammar.get_config()
    config.update_from_flattened_dict(TINY | {"train.steps": 3, "train.log_every": 1})
    config.model.encoder = "my_encoder:BagEncoder"
    yield config
    for name in ("my_encoder", "broken_encoder"):
        sys.modules.pop(name, None)


def test_it_trains_and_encodes(config, tmp_path, one_device):
    study.validate(config)
    problem = study.open_problem(config, tmp_path / "w")
    (trained,) = systems.train(problem, "eddpm", 0)
    encoder = trained.system.model.model.encoder
    assert type(encoder).__name__ == "BagEncoder"
    rows = (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    assert [r["step"] for r in map(json.loads, rows)] == [1, 2, 3]
    x = {side: jnp.asarray(ids[:8]) for side, ids in problem.data["test"].x.items()}
    z = np.asarray(trained.system.encode(x))
    assert z.shape == (8, config.model.latent_dim)
    # A bag: the order of words does not matter.
    shortest = int((x["source"] != encoder.pad).sum(1).min())
    turned = x["source"].at[:, :shortest].set(x["source"][:, :shortest][:, ::-1])
    assert np.allclose(trained.system.encode(x | {"source": turned}), z, atol=1e-4)
    vae = problem.networks.build(nnx.Rngs(0), predict_variance=True)
    mean, log_var = vae.posterior(x)
    assert mean.shape == log_var.shape == z.shape


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_file:Encoder", "No module named 'no_such_file'"),
        ("my_encoder:Nothing", "no attribute 'Nothing'"),
        ("my_encoder", "allowed: bert, or module:Class"),
        ("my_encoder:number", "allowed: bert, or module:Class"),
        ("broken_encoder:Encoder", "division by zero"),
        ("lstm", "allowed: bert, or module:Class"),
        ("", "allowed: bert, or module:Class"),
    ],
)
def test_a_wrong_name_is_one_line(config, name, message):
    config.model.encoder = name
    with pytest.raises(ConfigError, match=r"^model\.encoder is") as error:
        study.validate(config)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_weights_of_bert_fit_no_other_encoder(config):
    config.model.encoder_path = "configs"
    with pytest.raises(ConfigError, match=r"model\.encoder_path is 'configs', allowed: '' for an"):
        study.validate(config)
