"""What a study traces of a config, without data: every loss of every task, as shapes."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.common import moe, text_model
from experiments.common.latent import chain_of, sampler_of
from experiments.common.runs import Study, mesh_of, options_of
from experiments.constraints import game as constraint_game
from experiments.constraints import study as constraints
from experiments.constraints.systems import SYSTEMS as CONSTRAINT_SYSTEMS
from experiments.content_manipulation import study as content_manipulation
from experiments.content_manipulation import tasks as content_tasks
from experiments.content_manipulation.systems import SYSTEMS as WRITERS
from experiments.dts_gate import study as dts_gate
from experiments.e2wm import study as e2wm
from experiments.e2wm import tasks as e2wm_tasks
from experiments.e2wm.systems import systems_of
from experiments.eddpm import image_fields, images, sequence_fields, sequences, systems
from experiments.eddpm import study as eddpm
from experiments.eisl import corpus as translation
from experiments.eisl import study as eisl
from experiments.eisl import tasks as translation_tasks
from experiments.flexmoe import study as flexmoe
from experiments.latentops import space
from experiments.latentops import study as latentops
from experiments.lm_discriminator import study as lm_discriminator
from experiments.lm_discriminator import tasks as lm_tasks
from experiments.lm_discriminator.systems import SYSTEMS
from jaxgen.data.images import Images
from jaxgen.data.tokens import TokenShape
from jaxgen.evaluators import image_classifier, language_model
from jaxgen.models import gpt2
from jaxgen.models.latent import sample_latents
from jaxgen.train.runs import Runs

STUDIES = {
    "configs/eddpm/digits.py": eddpm,
    "configs/eddpm/mnist.py": eddpm,
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
    "configs/eisl/invented_protocol.py": eisl,
    "configs/eisl/multi30k_protocol.py": eisl,
    "configs/eisl/vocab256k.py": eisl,
    "configs/lm_discriminator/decipher.py": lm_discriminator,
    "configs/lm_discriminator/decipher_yelp.py": lm_discriminator,
    "configs/lm_discriminator/paper.py": lm_discriminator,
    "configs/lm_discriminator/yelp.py": lm_discriminator,
    "configs/constraints/digits.py": constraints,
    "configs/constraints/mnist.py": constraints,
    "configs/constraints/diffusion.py": constraints,
    "configs/constraints/paper.py": constraints,
    "configs/constraints/templates.py": constraints,
    "configs/constraints/templates_yelp.py": constraints,
    "configs/content_manipulation/grammar.py": content_manipulation,
    "configs/content_manipulation/nba.py": content_manipulation,
    "configs/content_manipulation/e2e.py": content_manipulation,
    "configs/content_manipulation/paper.py": content_manipulation,
    "configs/e2wm/default.py": e2wm,
    "configs/e2wm/smollm2.py": e2wm,
    "configs/e2wm/gpt_neo_1_3b.py": e2wm,
    "configs/moe/dts.py": dts_gate,
    "configs/moe/dts_shakespeare.py": dts_gate,
    "configs/moe/dts_yelp.py": dts_gate,
    "configs/moe/dts_domains.py": dts_gate,
    "configs/moe/dts_gpu.py": dts_gate,
    "configs/moe/gpt_moe_1_5b.py": dts_gate,
    "configs/moe/flexmoe.py": flexmoe,
    "configs/moe/flexmoe_images.py": flexmoe,
}


def command_of(study):
    """What `python -m experiments.` is followed by."""
    return study.__name__.removeprefix("experiments.").removesuffix(".study")


def names_of(study, config):
    """The fields that a study says it reads."""
    if study is eddpm:
        return (image_fields if config.data.kind == "images" else sequence_fields).NAMES
    return study.names(config) if study is constraints else study.NAMES


def trace(task, batch):
    """The shape of a task's loss; raises what its model or its loss raise."""
    model = jax.eval_shape(task.build, jax.random.key(0))
    extra = jax.eval_shape(task.extra)

    def loss(model, extra, batch, key):
        return task.loss(model, extra, batch, key, jnp.zeros((), jnp.int32))

    key = jax.random.key(0)
    assert jax.eval_shape(loss, model, extra, batch, key)[0].shape == ()


def ids(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def vectors(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def build(study, config):
    """Traces every task of a config."""
    {
        eddpm: _eddpm,
        latentops: _latentops,
        eisl: _eisl,
        lm_discriminator: _lm_discriminator,
        constraints: _constraints,
        content_manipulation: _content_manipulation,
        e2wm: _e2wm,
        dts_gate: _dts,
        flexmoe: _flexmoe,
    }[study](config)


def _shape(config):
    """Like `text_model.token_shape`, with special tokens that differ."""
    return dataclasses.replace(text_model.token_shape(config), begin=1, end=2, unknown=3)


def _judge_lm(config, shape):
    j = config.judge
    spec = gpt2.config(
        shape.size, width=j.width, depth=j.depth, heads=j.heads, max_positions=shape.length + 1
    )
    batch = {"target": ids(config.train.batch_size, shape.length)}
    trace(language_model.lm_task("judge", spec, shape), batch)


def _eddpm(config):
    problem, rows = eddpm.PROBLEMS[config.data.kind], config.train.batch_size
    networks = problem.networks_of(config)
    batch = networks.batch_shapes()
    if problem is sequences.SequenceProblem:
        batch = batch | {"value": vectors(rows)}
        shape = _shape(config)
        _judge_lm(config, shape)
        trace(sequences.baseline_task(config, shape), batch)
    else:
        shape, c = image_fields.shape_in(config), config.classifier
        if "ddpm" in config.systems:
            trace(images.ddpm_task(config, networks, shape), batch)
        options = image_classifier.ClassifierOptions(
            c.width, c.features, c.steps, c.learning_rate, c.noise, c.label_smoothing
        )
        trace(image_classifier.classifier_task(options, shape, 3), batch | {"label": ids(rows)})
    trace(systems.eddpm_task(config, networks), batch)
    for beta in config.vae.betas:
        trace(systems.vae_task(config, networks, beta, with_mlp=True), batch)
    trace(systems.vae_task(config, networks, config.two_stage.beta, with_mlp=False), batch)
    trace(systems.second_stage_task(config), {"latent": vectors(rows, config.model.latent_dim)})
    _samples(config, functools.partial(networks.build, predict_variance=False))


def _samples(config, build):
    model = jax.eval_shape(lambda: build(nnx.Rngs(0)))
    options, chain = sampler_of(config), chain_of(config)
    sample = lambda model, key: sample_latents(model, key, 2, chain, **options)  # noqa: E731
    assert jax.eval_shape(sample, model, jax.random.key(0)).shape == (2, config.model.latent_dim)


def _latentops(config):
    shape, rows = _shape(config), config.train.batch_size
    batch = dict.fromkeys(("source", "target"), ids(rows, shape.length))
    _judge_lm(config, shape)
    trace(space.vae_task(config, shape), batch)
    trace(space.eddpm_task(config, shape), batch)
    words = config.operators.keywords
    latents = {"u": vectors(rows, config.model.latent_dim), "keywords": vectors(rows, words)}
    labels = dict.fromkeys(config.operators.attributes, ids(rows))
    trace(space.operators_task(config, "vae", words), latents | labels)
    make = functools.partial(text_model.build_autoencoder, config, shape, predict_variance=False)
    _samples(config, lambda rngs: make(rngs=rngs))


def _eisl(config):
    corpus, batch = translation.abstract(config)
    if config.data.train_tokens:
        corpus = dataclasses.replace(corpus, train_length=config.data.train_tokens)
        shape = (config.train.batch_size, config.data.train_tokens)
        batch = {"source": ids(*shape), "target": ids(*shape)}
    for loss in config.losses:
        trace(translation_tasks.task(config, corpus, loss, loss), batch)


def _lm_discriminator(config):
    size, length = min(config.data.vocab_size, 100), config.data.max_tokens
    shape = TokenShape(size, size, length, begin=2, end=3, unknown=1, source_pad=0)
    rows = ids(config.train.batch_size, length)
    batch = {"0": rows, "1": rows}
    readers = [lm_tasks.style_lm_task(config, shape, style) for style in range(2)]
    classifier = lm_tasks.classifier_task(config, shape)
    for task in readers:
        trace(task, {"target": rows})
    trace(classifier, batch)
    lms = tuple(jax.eval_shape(task.build, jax.random.key(0)) for task in readers)
    read = jax.eval_shape(classifier.build, jax.random.key(0))
    for name in config.systems:
        start = lm_tasks.start_task(config, shape, SYSTEMS[name].noise)
        trace(start, batch)
        trace(lm_tasks.task(config, shape, name, SYSTEMS[name], None, lms, read), batch)


def _constraints(config):
    problem = constraints.problem_of(config)
    batch, key = problem.batch_shapes(), jax.random.key(0)
    trace(constraint_game.base_task(problem), batch)
    trace(constraint_game.knowledge_task(problem), batch)
    start, f = (jax.eval_shape(b, key) for b in (problem.build_model, problem.build_constraint))
    for name in config.systems:
        trace(constraint_game.task(problem, name, CONSTRAINT_SYSTEMS[name], start, f), batch)


def _content_manipulation(config):
    vocabulary, batch = content_manipulation.abstract(config)
    for name in config.systems:
        trace(content_tasks.task(config, vocabulary, name, WRITERS[name]), batch)


def _e2wm(config):
    rows, length = config.train.batch_size, 16
    batch = {"tokens": ids(rows, length), "weights": vectors(rows, length)}
    batch["general"] = ids(rows, config.data.general_tokens + 1)
    task = e2wm_tasks.base_task(config, config.data.vocab_size)
    trace(task, {"general": batch["general"]})
    base = jax.eval_shape(task.build, jax.random.key(0))
    for name, system in systems_of(config).items():
        if system.trains != "nothing":
            extra = functools.partial(e2wm_tasks.blank, config, task, system)
            trace(e2wm_tasks.finetune_task(config, name, system, base, 0, extra), batch)


def _dts(config):
    batch = {"tokens": ids(config.train.batch_size, config.data.context + 1)}
    vocab = config.data.vocab_size
    for method in config.methods:
        for segment in dts_gate.segments(config, method):
            trace(dts_gate.task(config, vocab, method, method, segment), batch)


def _flexmoe(config):
    mesh = mesh_of(config)
    moe.check_experts(config, mesh)
    flexmoe.check_devices(config, mesh.shape["expert"])
    flexmoe.rules_of(config)
    rows = config.train.batch_size
    data = moe.Corpus({"train": np.zeros((2, 2), np.int32)}, config.data.vocab_size)
    batch = {"tokens": ids(rows, config.data.context + 1)}
    if config.task == "images":
        image = Images(np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.int32))
        data, batch = {"train": image}, {"image": vectors(rows, 8, 8, 1), "label": ids(rows)}
    study = Study(config, data, Runs(pathlib.Path("nowhere"), mesh, options_of(config)))
    kind = flexmoe.make_task(study)
    for policy in config.policies:
        trace(flexmoe.task(study, kind, policy), batch)
