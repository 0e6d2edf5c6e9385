"""EDDPM's networks on images in torch, with the names of ours, so that weights go over by their paths."""

import itertools
import math

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from jaxgen.mesh import path_name
from jaxgen.nn.conv import multipliers, num_levels

EPS = 1e-6


def norm_of(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(g for g in range(1, 9) if channels % g == 0), channels, eps=EPS)


def conv3(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1)


class Halve(nn.Conv2d):
    """3x3 at stride 2, padded as XLA's SAME does it: below and to the right."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(c_in, c_out, 3, stride=2)

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def depth_to_space(x):
    b, c, h, w = x.shape
    x = x.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(b, c // 4, 2 * h, 2 * w).contiguous(memory_format=torch.channels_last)


def sinusoids(t, dim: int):
    half = dim // 2
    freqs = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=t.device))
    angles = t.float()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], -1)


class ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, cond_dim: int = 0):
        super().__init__()
        self.norm1, self.conv1 = norm_of(c_in), conv3(c_in, c_out)
        self.norm2, self.conv2 = norm_of(c_out), conv3(c_out, c_out)
        self.cond = nn.Linear(cond_dim, 2 * c_out) if cond_dim else None
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x, cond=None):
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.cond is not None:
            scale, shift = self.cond(cond)[:, :, None, None].chunk(2, 1)
            h = h * (1.0 + scale) + shift
        return self.conv2(F.silu(h)) + (x if self.skip is None else self.skip(x))


def stages_of(widths: list[int], blocks: int) -> nn.ModuleList:
    return nn.ModuleList([nn.ModuleList([ResBlock(w, w) for _ in range(blocks)]) for w in widths])


class Encoder(nn.Module):
    def __init__(self, shape, out_dim: int, width: int, blocks: int):
        super().__init__()
        size, _, channels = shape
        widths = [width * m for m in multipliers(num_levels(size))]
        self.stem, self.stages = conv3(channels, width), stages_of(widths, blocks)
        pairs = itertools.pairwise(widths)
        self.downs = nn.ModuleList([Halve(a, b) for a, b in pairs])
        self.norm = norm_of(widths[-1])
        flat = widths[-1] * (size // 2 ** (len(widths) - 1)) ** 2
        self.out = nn.Linear(flat, out_dim, bias=False)  # latents are standardised next

    def forward(self, x):
        h = self.stem(2.0 * x - 1.0)
        for i, stage in enumerate(self.stages):
            for block in stage:
                h = block(h)
            if i < len(self.downs):
                h = self.downs[i](h)
        h = F.silu(self.norm(h)).permute(0, 2, 3, 1).flatten(1)
        return self.out(h)


class Decoder(nn.Module):
    def __init__(self, dim: int, shape, width: int, blocks: int):
        super().__init__()
        size, _, channels = shape
        widths = [width * m for m in reversed(multipliers(num_levels(size)))]
        self.side = size // 2 ** (len(widths) - 1)
        self.stem = nn.Linear(dim, self.side**2 * widths[0])
        self.stages = stages_of(widths, blocks)
        pairs = itertools.pairwise(widths)
        self.ups = nn.ModuleList([conv3(a, 4 * b) for a, b in pairs])
        self.norm, self.out = norm_of(widths[-1]), conv3(widths[-1], channels)

    def forward(self, z):
        h = self.stem(z).view(len(z), self.side, self.side, -1).permute(0, 3, 1, 2)
        for i, stage in enumerate(self.stages):
            for block in stage:
                h = block(h)
            if i < len(self.ups):
                h = depth_to_space(self.ups[i](h))
        return self.out(F.silu(self.norm(h)))


class SelfAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm_of(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x):
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(h)[:, None].chunk(3, -1)
        y = self.out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + y.transpose(1, 2).view_as(x)


class UNet(nn.Module):
    """The diffusion decoder: noise in x_t, told t and z."""

    def __init__(self, shape, width: int, blocks: int, cond_dim: int):
        super().__init__()
        size, _, channels = shape
        widths, emb = [width * m for m in multipliers(num_levels(size))], 4 * width
        self.width = width
        self.time1, self.time2 = nn.Linear(width, emb), nn.Linear(emb, emb)
        self.cond, self.stem = nn.Linear(cond_dim, emb), conv3(channels, width)
        down, skips, c = [], [width], width
        for i, w in enumerate(widths):
            stage = []
            for _ in range(blocks):
                stage.append(ResBlock(c, w, emb))
                c = w
                skips.append(c)
            down.append(nn.ModuleList(stage))
            if i + 1 < len(widths):
                skips.append(c)
        self.down = nn.ModuleList(down)
        self.reduce = nn.ModuleList([Halve(w, w) for w in widths[:-1]])
        self.mid1, self.mid2 = ResBlock(c, c, emb), ResBlock(c, c, emb)
        self.attention = SelfAttention(c)
        up = []
        for w in reversed(widths):
            stage = []
            for _ in range(blocks + 1):
                stage.append(ResBlock(c + skips.pop(), w, emb))
                c = w
            up.append(nn.ModuleList(stage))
        self.up = nn.ModuleList(up)
        self.enlarge = nn.ModuleList([conv3(w, 4 * w) for w in reversed(widths[1:])])
        self.norm, self.out = norm_of(c), conv3(c, channels)

    def forward(self, x, t, z):
        cond = self.time2(F.silu(self.time1(sinusoids(t, self.width)))) + self.cond(z)
        cond = F.silu(cond)
        h = self.stem(x)
        skips = [h]
        for i, stage in enumerate(self.down):
            for block in stage:
                h = block(h, cond)
                skips.append(h)
            if i < len(self.reduce):
                h = self.reduce[i](h)
                skips.append(h)
        h = self.mid2(self.attention(self.mid1(h, cond)), cond)
        for i, stage in enumerate(self.up):
            for block in stage:
                h = block(torch.cat([h, skips.pop()], 1), cond)
            if i < len(self.enlarge):
                h = depth_to_space(self.enlarge[i](h))
        return self.out(F.silu(self.norm(h)))


class MLPSkipNet(nn.Module):
    def __init__(self, dim: int, width: int, depth: int, time_dim: int = 64):
        super().__init__()
        self.time_dim = time_dim
        self.time_in = nn.Linear(time_dim, time_dim)
        self.time_out = nn.Linear(time_dim, depth * width)
        sizes = [dim] + [dim + width] * (depth - 1)
        self.layers = nn.ModuleList([nn.Linear(n, width) for n in sizes])
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=EPS) for _ in range(depth)])
        self.out = nn.Linear(dim + width, dim)

    def forward(self, z, t):
        time = self.time_out(F.silu(self.time_in(sinusoids(t, self.time_dim))))
        h = z
        layers = zip(self.layers, self.norms, time.chunk(len(self.layers), -1), strict=True)
        for i, (layer, norm, scale) in enumerate(layers):
            h = F.silu(norm(layer(h if i == 0 else torch.cat([h, z], -1)) * (1.0 + scale)))
        return self.out(torch.cat([h, z], -1))


class Autoencoder(nn.Module):
    """Encoder, noise predictor and decoder of a `jaxgen.models.ImageAutoencoder`."""

    def __init__(self, model):
        super().__init__()
        shape, dim = model.shape, model.latent_dim
        width, blocks = model.encoder.stem.out_features, len(model.encoder.stages[0])
        self.encoder = Encoder(shape, dim, width, blocks)
        if model.likelihood == "diffusion":
            self.decoder = UNet(shape, width, blocks, dim)
        else:
            self.decoder = Decoder(dim, shape, width, blocks)
        self.mlp = MLPSkipNet(dim, model.mlp.layers[0].out_features, len(model.mlp.layers))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))
        copy_weights(model, self)


def copy_weights(model, net: nn.Module) -> None:
    """Every parameter of ours into the one of the same name; both must have the same ones."""
    names = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
    there = dict(net.named_parameters())
    for path, leaf in jax.tree_util.tree_leaves_with_path(model):
        *modules, last = path_name(path).split("/")
        target = there.pop(".".join([*modules, names[last]]))
        weight = np.asarray(leaf)
        if weight.ndim == 4:
            weight = weight.transpose(3, 2, 0, 1)
        elif last == "kernel":
            weight = weight.T
        target.data = torch.tensor(np.ascontiguousarray(weight).reshape(target.shape))
    if there:
        raise ValueError(f"torch has {sorted(there)}, which jax has not")
