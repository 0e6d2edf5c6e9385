"""EDDPM's train step in torch: the loss of ours, fused AdamW, clipping, a moving average of the weights."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch_nets import Autoencoder, UNet

Options = dict[str, float]


class Trainer:
    """Parameters, optimiser and average; eager and compiled losses share them."""

    def __init__(self, net: Autoencoder, chain, options: Options, *, device: str, half: bool):
        self.net, self.device, self.half, self.options = net, device, half, options
        names = ("beta", "alpha_bar", "one_minus_alpha_bar")
        self.chain = {
            n: torch.tensor(np.asarray(getattr(chain, n)), dtype=torch.float32, device=device)
            for n in names
        }
        self.net.to(device, memory_format=torch.channels_last)
        self.parameters = list(net.parameters())
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.ema = [p.detach().clone() for p in self.parameters]

    def step(self, loss: Callable, x: torch.Tensor) -> torch.Tensor:
        """One update; `loss` is `self.loss`, or what torch.compile made of it."""
        value = loss(x)
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1e-3)
        return value

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """The simple weighting, with the KL form of the alignment."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            return self._loss(x)

    def _loss(self, x):
        net, o = self.net, self.options
        beta, a_bar, rest = (self.chain[n] for n in ("beta", "alpha_bar", "one_minus_alpha_bar"))
        total, k = len(beta) - 1, int(o["num_t"])
        weight = beta / (2 * (1 - beta) * rest.clamp_min(1e-12))
        mu = self._standardised(net.encoder(x).float())
        z_0 = mu + o["sigma_0"] * torch.randn_like(mu)
        t = torch.randint(1, total + 1, (k * len(x),), device=x.device)
        z, mus = z_0.repeat(k, 1), mu.repeat(k, 1)
        eps = torch.randn_like(z)
        a, b = a_bar[t, None].sqrt(), rest[t, None].sqrt()
        z_t = a * z + b * eps
        eps_hat = net.mlp(z_t, t).float()
        error = ((eps - eps_hat) ** 2).sum(-1)
        a_1, b_1 = a_bar[1].sqrt(), rest[1].sqrt()
        align = ((mus - (z_t - b_1 * eps_hat) / a_1) ** 2).sum(-1) / (2 * beta[1])
        chain = torch.where(t == 1, align / weight[1], error)
        var_t = a_bar[-1] * o["sigma_0"] ** 2 + rest[-1]
        prior = 0.5 * (var_t + a_bar[-1] * mu**2 - 1 - var_t.log()).sum(-1)
        fixed = (self._reconstruction(x, z_0) + prior).repeat(k) / (weight[t] * total)
        return (o["diffusion_weight"] * chain + fixed).mean()

    def _standardised(self, h):
        """By running moments, with batch renormalisation's gradient."""
        m, v = h.mean(0), h.var(0, unbiased=False)
        with torch.no_grad():
            self.net.mean.lerp_(m, 0.02)
            self.net.var.lerp_(v, 0.02)
            ratio, shift = (v / self.net.var).sqrt(), (m - self.net.mean) / self.net.var.sqrt()
        return (h - m) / (v + 1e-6).sqrt() * ratio + shift

    def _reconstruction(self, x, z):
        """-log p(x|z) up to a constant; of a U-Net, its bound at one t of each image."""
        net, half = self.net.decoder, 0.5 / self.options["decoder_std"] ** 2
        if not isinstance(net, UNet):
            return ((x - net(z).float()) ** 2).flatten(1).sum(-1) * half
        a_bar, rest = self.chain["alpha_bar"], self.chain["one_minus_alpha_bar"]
        t = torch.randint(1, len(a_bar), (len(x),), device=x.device)
        eps = torch.randn_like(x)
        a, b = (c[t, None, None, None].sqrt() for c in (a_bar, rest))
        x_t = a * (2.0 * x - 1.0) + b * eps
        return ((eps - net(x_t, t, z).float()) ** 2).flatten(1).sum(-1) * half
