"""EDDPM's train step: the model of configs/eddpm/celeba64.py in bf16, and of configs/eddpm/digits.py.

CelebA's is bound by arithmetic; the digits' by launches, so it comes in three forms: the state as a tree of
modules, the state as a flat tuple of leaves, and ten steps in one program.
"""

import functools
from concurrent import futures

import jax
import jax.numpy as jnp
import measure
import optax
from flax import nnx
from report import Report

from jaxgen.diffusion import schedule
from jaxgen.models.image_autoencoder import ImageAutoencoder
from jaxgen.train import latent_tasks, state, step

CELEBA = {
    "shape": (64, 64, 3),
    "latent_dim": 512,
    "width": 64,
    "blocks": 2,
    "denoiser_width": 2048,
    "denoiser_depth": 10,
    "decoder": "diffusion",
}
DIGITS = {
    "shape": (8, 8, 1),
    "latent_dim": 32,
    "width": 16,
    "blocks": 1,
    "denoiser_width": 320,
    "denoiser_depth": 4,
    "decoder": "gaussian",
}
TINY = {"width": 8, "latent_dim": 16, "denoiser_width": 32, "denoiser_depth": 2, "blocks": 1}
OPTIONS = {"sigma_0": 0.03, "diffusion_weight": 0.1, "num_t": 8, "decoder_std": 0.05}


def build(options: dict, dtype: str | None, rngs: nnx.Rngs) -> ImageAutoencoder:
    more = {k: v for k, v in options.items() if k != "shape"}
    return ImageAutoencoder(
        options["shape"],
        encoder_bias=False,
        decoder_std=OPTIONS["decoder_std"],
        dtype=dtype,
        rngs=rngs,
        **more,
    )


def gate(report: Report, options: dict, model: ImageAutoencoder, net) -> float:
    """All three networks in float32 on two images: the same outputs as torch's."""
    exact = jax.eval_shape(lambda: build(options, None, nnx.Rngs(0)))
    exact = jax.tree.unflatten(jax.tree.structure(exact), jax.tree.leaves(model))
    x = jax.random.uniform(jax.random.key(3), (2, *options["shape"]))
    t = jnp.array([3, 700])

    @jax.jit
    def ours(model, x, t):
        z = model.encoder(x)
        decoded = model.decoder(x, t, z) if model.likelihood == "diffusion" else model.decoder(z)
        return z, model.mlp(z, t), decoded.transpose(0, 3, 1, 2)

    torch = report.torch
    with measure.precision("highest", torch), torch.no_grad():
        mine = ours(exact, x, t)
        there, when = images(report, x), report.tensor(t, torch.int64)
        z = net.encoder(there)
        unet = options["decoder"] == "diffusion"
        decoded = net.decoder(there, when, z) if unet else net.decoder(z)
        pairs = zip(mine, (z, net.mlp(z, when), decoded), strict=True)
        names = ("encoder", "noise predictor", "decoder")
        return measure.gap(dict(zip(names, pairs, strict=True)), 1e-3)


def images(report: Report, x):
    """[B, H, W, C] as torch has them."""
    nchw = report.tensor(x).permute(0, 3, 1, 2)
    return nchw.contiguous(memory_format=report.torch.channels_last)


class Steps:
    """Our step on a batch, in its forms; the state goes from call to call."""

    def __init__(self, options: dict, dtype: str | None, batch: int):
        chain = schedule.linear(1000)
        more = {k: v for k, v in OPTIONS.items() if k != "decoder_std"}
        task = latent_tasks.eddpm_task(
            functools.partial(build, options, dtype),
            chain,
            latent_norm="running",
            inputs=lambda batch: batch["image"],
            **more,
        )
        self.chain = chain
        self.tx = step.optimizer(optax.constant_schedule(1e-4), clip=1.0)
        self.step = step.make_step(task.loss, self.tx, ema_decay=0.999)
        key = jax.random.key(0)
        self.model = measure.filled(jax.eval_shape(task.build, key))
        self.fresh = jax.jit(
            lambda model: state.create(lambda _: model, self.tx, key, extra=task.extra)
        )
        x = jax.random.uniform(jax.random.key(1), (batch, *options["shape"]))
        self.batch = {"image": x}

    def start(self) -> state.TrainState:
        return self.fresh(self.model)  # copies: a step gives its buffers away

    def as_tree(self):
        """The step as `make_step` gives it, and a state to begin with."""
        return self.step, self.start()

    def as_leaves(self, count: int = 1):
        """The same with the state as a flat tuple; `count` steps in one program."""
        leaves, tree = jax.tree.flatten(self.start())

        def one(leaves, _, batch):
            new, metrics = self.step(jax.tree.unflatten(tree, leaves), batch)
            return tuple(jax.tree.leaves(new)), metrics

        def many(leaves, batch):
            leaves, metrics = jax.lax.scan(
                functools.partial(one, batch=batch), leaves, length=count
            )
            return leaves, jax.tree.map(lambda m: m[0], metrics)

        f = many if count > 1 else lambda leaves, batch: one(leaves, None, batch)
        return jax.jit(f, donate_argnums=0), tuple(leaves)

    def programs(self, *forms) -> list[measure.Program]:
        """Compiled all at once; each call is a step on, from the state of the one before."""
        lowered = [f.lower(begin, self.batch) for f, begin in forms]
        with futures.ThreadPoolExecutor() as pool:
            built = list(pool.map(lambda low: low.compile(), lowered))

        def carried(step, begin):
            state = [begin]

            def call():
                state[0], metrics = step(state[0], self.batch)
                return metrics

            return call

        return [
            measure.Program(carried(b, begin), measure.flops_of(low, b), measure.memory_of(b))
            for low, b, (_, begin) in zip(lowered, built, forms, strict=True)
        ]


def trainer(report: Report, options: dict, steps: Steps, *, half: bool):
    """torch's side with our weights, after the gate, and what the gate found."""
    if report.torch is None:
        return None, None
    from torch_eddpm import Trainer
    from torch_nets import Autoencoder

    model = steps.model
    made = Trainer(Autoencoder(model), steps.chain, OPTIONS, device=report.device, half=half)
    return made, gate(report, options, model, made.net)


def peers_of(report: Report, made, x, *, graphs: bool) -> dict:
    if made is None:
        return {}
    there = images(report, x)

    def compiled():
        return functools.partial(made.step, report.compiled(made.loss, graphs=graphs), there)

    return {"eager": lambda: functools.partial(made.step, made.loss, there), "compile": compiled}


def celeba64(report: Report, batch: int) -> None:
    options = CELEBA | (TINY | {"shape": (8, 8, 3)} if report.small else {})
    steps = Steps(options, "bfloat16", 4 if report.small else batch)
    made, passed = trainer(report, options, steps, half=True)
    (ours,) = steps.programs(steps.as_tree())
    report.compare(
        "EDDPM celeba64 step",
        f"batch {len(steps.batch['image'])}",
        ours.run,
        peers_of(report, made, steps.batch["image"], graphs=False),
        gap=passed,
        flops=ours.flops,
        memory=ours.memory,
        need=60.0,
    )


def digits(report: Report) -> None:
    options, batch = DIGITS | (TINY if report.small else {}), 8 if report.small else 64
    steps = Steps(options, None, batch)
    made, passed = trainer(report, options, steps, half=False)
    with measure.precision("tf32", report.torch):
        forms = steps.as_tree(), steps.as_leaves(), steps.as_leaves(10)
        tree, leaves, ten = steps.programs(*forms)
        first = [ours.run()["loss"] for ours in (tree, leaves, ten)]
        same = measure.gap({"flat": (first[1], first[0]), "scan": (first[2], first[0])}, 1e-4)
        peers = peers_of(report, made, steps.batch["image"], graphs=True)
        for name, ours, per in (
            ("tree of modules", tree, 1),
            ("flat leaves", leaves, 1),
            ("10 steps a program", ten, 10),
        ):
            report.compare(
                "EDDPM digits step",
                f"batch {batch}, {name}",
                ours.run,
                peers if per == 1 else {},
                gap=passed if per == 1 and passed is not None else same,
                flops=ours.flops * per,
                memory=ours.memory,
                per=per,
            )


def run(part: str, report: Report) -> None:
    if part == "digits":
        digits(report)
    else:
        celeba64(report, {"celeba64": 128, "celeba64_256": 256}[part])
