"""EDDPM's train step and 50-step DDIM sampling, against the same model written in PyTorch.

    pip install -e '.[parity]' && PYTHONPATH=. python benchmarks/eddpm_step.py
    PYTHONPATH=. python benchmarks/eddpm_step.py --trace step    # where our step's time goes, by kind; or ddim

Both sides run in this process, on the digits config, in turns: A B A B .. Before timing, the
PyTorch model gets our weights and has to reproduce our encoder, noise predictor and decoder. Its step
is eager, as the reference implementations are, with the fused AdamW and a foreach EMA.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import op_times
import optax
import records
import torch
from pairs import Program, paired
from torch import nn
from torch.nn import functional as F

from configs.eddpm import digits
from experiments.common.latent import chain_of
from experiments.eddpm import systems
from experiments.eddpm.images import ImageNetworks
from jaxgen.data import images
from jaxgen.diffusion import samplers
from jaxgen.train import state, step

SHAPE = (8, 8, 1)


def groups(channels: int) -> int:
    return max(g for g in range(1, 9) if channels % g == 0)


class TorchBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups(c), c, eps=1e-6)
        self.conv1 = nn.Conv2d(c, c, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups(c), c, eps=1e-6)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class TorchMLP(nn.Module):
    def __init__(self, dim, width, depth, time_dim=64):
        super().__init__()
        self.time_in = nn.Linear(time_dim, time_dim)
        self.time_out = nn.Linear(time_dim, depth * width)
        sizes = [dim] + [dim + width] * (depth - 1)
        self.layers = nn.ModuleList([nn.Linear(n, width) for n in sizes])
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-6) for _ in range(depth)])
        self.out = nn.Linear(dim + width, dim)
        half = time_dim // 2
        freqs = torch.exp(-np.log(10_000.0) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("freqs", freqs)

    def forward(self, z, t):
        angles = t.float()[:, None] * self.freqs
        time_ = torch.cat([angles.cos(), angles.sin()], -1)
        scales = self.time_out(F.silu(self.time_in(time_))).chunk(len(self.layers), -1)
        h = z
        for i, (layer, norm, scale) in enumerate(zip(self.layers, self.norms, scales, strict=True)):
            h = layer(h if i == 0 else torch.cat([h, z], -1))
            h = F.silu(norm(h * (1.0 + scale)))
        return self.out(torch.cat([h, z], -1))


class TorchEDDPM(nn.Module):
    """The digits config: 8x8 at `width`, 4x4 at twice that."""

    def __init__(self, m):
        super().__init__()
        w, d = m.width, m.latent_dim
        self.enc_stem = nn.Conv2d(1, w, 3, padding=1)
        self.enc1, self.enc2 = TorchBlock(w), TorchBlock(2 * w)
        self.down = nn.Conv2d(w, 2 * w, 3, stride=2)
        self.enc_norm = nn.GroupNorm(groups(2 * w), 2 * w, eps=1e-6)
        self.enc_out = nn.Linear(2 * w * 16, d, bias=False)  # standardised next
        self.dec_stem = nn.Linear(d, 2 * w * 16)
        self.dec1, self.dec2 = TorchBlock(2 * w), TorchBlock(w)
        self.up = nn.Conv2d(2 * w, 4 * w, 3, padding=1)
        self.dec_norm = nn.GroupNorm(groups(w), w, eps=1e-6)
        self.dec_out = nn.Conv2d(w, 1, 3, padding=1)
        self.mlp = TorchMLP(d, m.denoiser_width, m.denoiser_depth)

    def encode(self, x):
        h = self.enc1(self.enc_stem(2 * x - 1))
        h = self.enc2(self.down(F.pad(h, (0, 1, 0, 1))))  # XLA's SAME padding at stride 2
        return self.enc_out(F.silu(self.enc_norm(h)).permute(0, 2, 3, 1).flatten(1))

    def decode(self, z):
        h = self.dec_stem(z).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
        h = self.up(self.dec1(h))
        b, c, y, x = h.shape
        h = h.view(b, 2, 2, c // 4, y, x).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * y, 2 * x)
        return self.dec_out(F.silu(self.dec_norm(self.dec2(h))))


def copy_weights(model, ours: TorchEDDPM) -> None:
    """Our nnx parameters into the PyTorch modules."""

    def put(target, source):
        kernel = getattr(source, "kernel", None)
        weight = np.asarray((source.scale if kernel is None else kernel)[...])
        if weight.ndim == 4:
            weight = weight.transpose(3, 2, 0, 1)
        elif weight.ndim == 2:
            weight = weight.T
        assert tuple(target.weight.shape) == weight.shape
        target.weight.data = torch.tensor(np.ascontiguousarray(weight))
        if target.bias is not None:
            target.bias.data = torch.tensor(np.asarray(source.bias[...]))

    def block(target, source):
        for name in ("norm1", "conv1", "norm2", "conv2"):
            put(getattr(target, name), getattr(source, name))

    e, d, m = model.encoder, model.decoder, model.mlp
    put(ours.enc_stem, e.stem)
    put(ours.down, e.downs[0])
    put(ours.enc_norm, e.norm)
    put(ours.enc_out, e.out)
    block(ours.enc1, e.stages[0][0])
    block(ours.enc2, e.stages[1][0])
    put(ours.dec_stem, d.stem)
    put(ours.up, d.ups[0])
    put(ours.dec_norm, d.norm)
    put(ours.dec_out, d.out)
    block(ours.dec1, d.stages[0][0])
    block(ours.dec2, d.stages[1][0])
    for name in ("time_in", "time_out", "out"):
        put(getattr(ours.mlp, name), getattr(m, name))
    for target, source in zip(ours.mlp.layers, m.layers, strict=True):
        put(target, source)
    for target, source in zip(ours.mlp.norms, m.norms, strict=True):
        put(target, source)


def torch_step(net: TorchEDDPM, config, chain) -> Callable[[torch.Tensor], None]:
    c, t_conf = config.eddpm, config.train
    beta, alpha_bar, rest = (
        torch.tensor(np.asarray(a))
        for a in (chain.beta, chain.alpha_bar, chain.one_minus_alpha_bar)
    )
    weight = beta / (2 * (1 - beta) * rest.clamp_min(1e-12))
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    parameters = list(net.parameters())
    ema = [p.detach().clone() for p in parameters]
    mean, var = torch.zeros(config.model.latent_dim), torch.ones(config.model.latent_dim)
    std_x = config.model.decoder_std
    total = chain.num_steps

    def run(x: torch.Tensor) -> None:
        h = net.encode(x)
        m, v = h.mean(0), h.var(0, unbiased=False)
        with torch.no_grad():
            mean.lerp_(m, 0.02)
            var.lerp_(v, 0.02)
            ratio, shift = (v / var).sqrt(), (m - mean) / var.sqrt()
        mu = (h - m) / (v + 1e-6).sqrt() * ratio + shift
        z_0 = mu + c.sigma_0 * torch.randn_like(mu)
        k = c.num_t
        t = torch.randint(1, total + 1, (k * len(x),))
        z, mus = z_0.repeat(k, 1), mu.repeat(k, 1)
        eps = torch.randn_like(z)
        a, b = alpha_bar[t, None].sqrt(), rest[t, None].sqrt()
        z_t = a * z + b * eps
        eps_hat = net.mlp(z_t, t)
        error = ((eps - eps_hat) ** 2).sum(-1)
        align = ((mus - (z_t - b * eps_hat) / a) ** 2).sum(-1) / (2 * beta[1])
        chain_term = torch.where(t == 1, align / weight[1], error)
        reconstruction = ((x - net.decode(z_0)) ** 2).flatten(1).sum(-1) / (2 * std_x**2)
        var_t = alpha_bar[-1] * c.sigma_0**2 + rest[-1]
        prior = 0.5 * (var_t + alpha_bar[-1] * mu**2 - 1 - var_t.log()).sum(-1)
        fixed = (reconstruction + prior).repeat(k) / (weight[t] * total)
        loss = (c.diffusion_weight * chain_term + fixed).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, t_conf.clip)
        optimiser.step()
        torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - t_conf.ema_decay)

    return run


@torch.no_grad()
def torch_sample(net: TorchEDDPM, chain, steps: int, count: int, dim: int) -> torch.Tensor:
    taus = np.asarray(samplers.ddim_steps(chain.num_steps, steps))
    alpha_bar = torch.tensor(np.asarray(chain.alpha_bar))
    z = torch.randn(count, dim)
    for t, s in zip(taus[:0:-1], taus[-2::-1], strict=True):
        eps = net.mlp(z, torch.full((count,), float(t)))
        a, b = alpha_bar[t], alpha_bar[s]
        z = b.sqrt() * (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    return net.decode(z)


# Of operations that are neither products nor copies: words in their path.
KINDS = {
    "random numbers": ("threefry", "random_bits"),
    "sums and elementwise, forward and backward": ("jvp",),
    "optimiser, moving averages, clipping": ("jit(step)",),
}
DDIM_KINDS = {
    "random numbers": ("threefry", "random_bits"),
    "the chain's sums and elementwise": ("while",),
    "the decoder's": ("jit(draw)",),
}


def main() -> None:
    parser = records.parser(__doc__, rounds=11)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--trace", choices=("step", "ddim"), help="ours alone; nothing is compared")
    args = parser.parse_args()
    if args.trace:
        op_times.use_cpu()
    out = records.Recorder(args.json)
    config = digits.get_config()
    chain = chain_of(config)
    task = systems.eddpm_task(config, ImageNetworks(config, SHAPE))
    tx = step.optimizer(optax.constant_schedule(1e-3), clip=config.train.clip)
    s = jax.jit(lambda k: state.create(task.build, tx, k, extra=task.extra))(jax.random.key(0))
    model = jax.tree.map(jnp.copy, s.model)
    x = images.load("digits")["train"].image[: config.train.batch_size]
    made = step.make_step(task.loss, tx, ema_decay=config.train.ema_decay)
    stepper = step.Stepper(made, s)

    def our_step() -> None:
        stepper({"image": x})["loss"].block_until_ready()

    @jax.jit
    def draw(model, key):
        z = jax.random.normal(key, (args.samples, config.model.latent_dim))
        return model.decoder(samplers.ddim(model.mlp, z, chain, num_steps=50))

    if args.trace == "step":
        hlo = stepper.lower({"image": x}).compile().as_text()
        out.extend(op_times.by_kind(our_step, hlo, calls=20 * args.rounds, kinds=KINDS))
        return
    if args.trace == "ddim":
        run = Program(draw, model, jax.random.key(1))
        hlo = run.built.as_text()
        out.extend(op_times.by_kind(run, hlo, calls=5 * args.rounds, kinds=DDIM_KINDS))
        return
    net = TorchEDDPM(config.model)
    copy_weights(model, net)
    torch_x = torch.tensor(x.transpose(0, 3, 1, 2))

    z = np.asarray(model.encoder(x))
    t = np.arange(len(x)) * 7 + 1
    gaps = {
        "encoder": np.abs(z - net.encode(torch_x).detach().numpy()).max(),
        "noise predictor": np.abs(
            np.asarray(model.mlp(z, t)) - net.mlp(torch.tensor(z), torch.tensor(t)).detach().numpy()
        ).max(),
        "decoder": np.abs(
            np.asarray(model.decoder(z))
            - net.decode(torch.tensor(z)).detach().numpy().transpose(0, 2, 3, 1)
        ).max(),
    }
    assert max(gaps.values()) < 1e-4, gaps
    count = state.parameter_count(model)
    print(f"{count:,} parameters; largest difference of outputs: {max(gaps.values()):.1e}")

    run = torch_step(net, config, chain)
    times = paired(our_step, lambda: run(torch_x), args.rounds, 20)
    sizes = {"batch": len(x), "t for each image": config.eddpm.num_t}
    extra = {"outputs differ by": float(max(gaps.values()))}
    out.add(records.pairs("train step", *times, sizes=sizes, target=1.15, extra=extra))

    keys = iter(jax.random.split(jax.random.key(1), 10_000))
    times = paired(
        lambda: draw(model, next(keys)).block_until_ready(),
        lambda: torch_sample(net, chain, 50, args.samples, config.model.latent_dim),
        args.rounds,
        3,
    )
    sizes = {"samples": args.samples}
    out.add(records.pairs("50-step DDIM, decoded", *times, sizes=sizes, target=1.3))


if __name__ == "__main__":
    main()
