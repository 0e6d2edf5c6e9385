"""What a study traces of a config, without data: every loss of every system, as shapes."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from experiments.sequence_data import Vocabulary
from experiments.study import Study, mesh_shape
from flax import nnx

from experiments import (
    dts_gate,
    eddpm,
    eddpm_ablation,
    eisl,
    flexmoe,
    image_fields,
    image_study,
    latent_space,
    latentops,
    moe_language,
    sequence_judge,
    sequence_study,
    style_transfer,
    systems,
    translation,
)
from jaxgen import mesh as mesh_lib
from jaxgen.data.images import Images
from jaxgen.models import gpt2
from jaxgen.nn import textcnn

STUDIES = {
    "configs/eddpm/digits.py": eddpm,
    "configs/eddpm/celeba64.py": eddpm,
    "configs/eddpm/grammar.py": eddpm,
    "configs/eddpm/yelp.py": eddpm,
    "configs/eddpm/yelp_paper.py": eddpm,
    "configs/eddpm/peptides.py": eddpm,
    "configs/eddpm/antibody.py": eddpm,
    "configs/latentops/grammar.py": latentops,
    "configs/latentops/yelp.py": latentops,
    "configs/latentops/yelp_paper.py": latentops,
    "configs/eisl/invented.py": eisl,
    "configs/eisl/multi30k.py": eisl,
    "configs/eisl/multi30k_non_autoregressive.py": eisl,
    "configs/eisl/vocab256k.py": eisl,
    "configs/style_transfer/grammar.py": style_transfer,
    "configs/style_transfer/yelp.py": style_transfer,
    "configs/moe/dts.py": dts_gate,
    "configs/moe/dts_shakespeare.py": dts_gate,
    "configs/moe/dts_yelp.py": dts_gate,
    "configs/moe/gpt_moe_1_5b.py": dts_gate,
    "configs/moe/flexmoe.py": flexmoe,
    "configs/moe/flexmoe_images.py": flexmoe,
}


def names_of(study, config):
    """The fields that a study says it reads."""
    if study in (eddpm, eddpm_ablation):
        return eddpm.KINDS[config.data.kind].NAMES
    return study.NAMES


def trace(system, batch):
    """The shape of a system's loss; raises what its model or its loss raise."""
    model = jax.eval_shape(system.build, jax.random.key(0))
    extra = jax.eval_shape(system.extra)

    def loss(model, extra, batch, key):
        return system.loss(model, extra, batch, key, jnp.zeros((), jnp.int32))

    key = jax.random.key(0)
    assert jax.eval_shape(loss, model, extra, batch, key)[0].shape == ()


def ids(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def vectors(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def build(study, config):
    """Traces every system of a config."""
    {eddpm: _eddpm, latentops: _latentops, eisl: _eisl, style_transfer: _style}.get(
        study, _dts if study is dts_gate else _flexmoe
    )(config)


def _vocabulary(config):
    d = config.data
    return Vocabulary(d.vocab_size, d.source_vocab_size or d.vocab_size, d.max_tokens, 1, 2, 3, 0)


def _judge_lm(config, v):
    j = config.judge
    spec = gpt2.config(
        v.size, width=j.width, depth=j.depth, heads=j.heads, max_positions=v.length + 1
    )
    trace(
        sequence_judge.lm_system("judge", spec, v),
        {"target": ids(config.train.batch_size, v.length)},
    )


def _eddpm(config):
    kind, rows = eddpm.KINDS[config.data.kind], config.train.batch_size
    domain, batch = kind.abstract_domain(config)
    if kind is sequence_study:
        batch = batch | {"value": vectors(rows)}
        v = _vocabulary(config)
        _judge_lm(config, v)
        spec = sequence_study.gpt_spec(config, v, depth=config.model.decoder_depth)
        trace(sequence_judge.lm_system("lm", spec, v), batch)
    else:
        shape = image_fields.shape_in(config)
        if "ddpm" in config.systems:
            trace(image_study.ddpm_system(config, shape), batch)
        image_study.Classifier(
            config, shape, 3, nnx.Rngs(0)
        ) if config.classifier.width < 9 else None
    trace(systems.eddpm_system(config, domain), batch)
    for beta in config.vae.betas:
        trace(systems.vae_system(config, domain, beta, with_mlp=True), batch)
    trace(systems.vae_system(config, domain, config.two_stage.beta, with_mlp=False), batch)
    trace(
        systems.latent_diffusion_system(config), {"latent": vectors(rows, config.model.latent_dim)}
    )
    _samples(config)


def _samples(config):
    mlp = jax.eval_shape(lambda: systems.build_mlp(config, nnx.Rngs(0)))
    sample = lambda mlp, key: systems.latent_sampler(config, mlp)(key, 2)  # noqa: E731
    jax.eval_shape(sample, mlp, jax.random.key(0))


def _latentops(config):
    domain, batch = sequence_study.abstract_domain(config)
    _judge_lm(config, _vocabulary(config))
    trace(latent_space.vae_system(config, domain, 0), batch)
    trace(systems.eddpm_system(config, domain), batch)
    jax.eval_shape(lambda: latent_space.Heads(config, config.operators.keywords, nnx.Rngs(0)))
    _samples(config)


def _eisl(config):
    corpus, batch = translation.abstract(config)
    if config.data.train_tokens:
        corpus = dataclasses.replace(corpus, train_length=config.data.train_tokens)
        shape = (config.train.batch_size, config.data.train_tokens)
        batch = {"source": ids(*shape), "target": ids(*shape)}
    for loss in config.losses:
        trace(translation.system(config, corpus, loss, loss), batch)


def _style(config):
    v = _vocabulary(config)
    rows = ids(config.train.batch_size, v.length)
    batch = {"target": rows, "style": ids(config.train.batch_size)}
    _judge_lm(config, v)
    trace(style_transfer.classifier_system(config, v), batch)
    width = config.classifier.width
    classifier = textcnn.TextCNN(v.size, 2, width=width, rngs=nnx.Rngs(0))
    for loss in config.losses:
        for weight in config.transfer.content_weights:
            trace(style_transfer.system(config, v, classifier, loss, weight), batch)


def _dts(config):
    batch = {"tokens": ids(config.train.batch_size, config.data.context + 1)}
    vocab = config.data.vocab_size
    for method in config.methods:
        parts = dts_gate.segments(config) if method == "dts" else [None]
        for segment in parts:
            trace(dts_gate.system(config, vocab, method, method, segment), batch)


def _flexmoe(config):
    mesh = mesh_lib.make_mesh(mesh_shape(config))
    moe_language.check_experts(config, mesh)
    flexmoe.check_devices(config, mesh.shape["expert"])
    flexmoe.rules_of(config)
    rows = config.train.batch_size
    data = moe_language.Corpus({"train": np.zeros((2, 2), np.int32)}, config.data.vocab_size)
    batch = {"tokens": ids(rows, config.data.context + 1)}
    if config.task == "images":
        image = Images(np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.int32))
        data, batch = {"train": image}, {"image": vectors(rows, 8, 8, 1), "label": ids(rows)}
    study = Study(config, pathlib.Path("nowhere"), mesh, data)
    task = flexmoe.make_task(study)
    for policy in config.policies:
        trace(flexmoe.system(study, task, policy), batch)
