"""EISL with its output layer, plain and fused, beside cross-entropy: value and gradients, in bf16.

The least that all three cost is three products, 6 B T V D floating point operations. The fused form is
about memory: it holds no array [B, T, V].
"""

import functools

import jax
import jax.numpy as jnp
import measure
import optax
from report import Report

from jaxgen.losses import eisl, fused_linear

NGRAMS = (2, 3, 4)


def logits(h: jax.Array, e: jax.Array) -> jax.Array:
    return jnp.einsum("btd,vd->btv", h, e)


def plain(h, e, y):
    return eisl.eisl_loss(logits(h, e), y, ngrams=NGRAMS).mean()


def fused(h, e, y, *, budget: int):
    pairs = functools.partial(eisl.eisl_from_pairs, ngrams=NGRAMS)
    return fused_linear.fused_loss(h, e, y, lambda c, _: pairs(c), budget=budget)


def cross_entropy(h, e, y):
    x = logits(h, e).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()


def torch_losses(torch):
    """EISL that gathers before it matches, and cross-entropy, as one writes them in torch."""
    nll = torch.nn.functional.cross_entropy

    def gathered(h, e, y):
        logp = (h @ e.T).float().log_softmax(-1)
        c = logp.gather(-1, y[:, None].expand(-1, h.shape[1], -1))[:, None]
        total = 0.0
        for n in NGRAMS:
            kernel = torch.eye(n, device=h.device)[None, None]
            match = torch.nn.functional.conv2d(c, kernel)[:, 0] / n
            total = total - (match.softmax(1) * match).sum(1).mean() / len(NGRAMS)
        return total

    def entropy(h, e, y):
        return nll((h @ e.T).float().flatten(0, 1), y.flatten())

    return gathered, entropy


def value_and_grad(torch, loss, h, e, y):
    """(loss, gradients) of leaves."""
    value = loss(h, e, y)
    return value, *torch.autograd.grad(value, (h, e))


def inputs(batch: int, length: int, width: int, vocab: int, dtype):
    h = jax.random.normal(jax.random.key(0), (batch, length, width))
    e = jax.random.normal(jax.random.key(1), (vocab, width)) / width**0.5
    y = jax.random.randint(jax.random.key(2), (batch, length), 0, vocab)
    return h.astype(dtype), e.astype(dtype), y


def tensors(report: Report, h, e, y, dtype):
    leaves = (report.tensor(a, dtype).requires_grad_(True) for a in (h, e))
    return *leaves, report.tensor(y, report.torch.int64)


def gates(report: Report) -> dict[str, float]:
    """In float32, at a small size: fused against plain, and both losses against torch."""
    with measure.precision("highest", report.torch):
        h, e, y = inputs(4, 16, 32, 1000, jnp.float32)
        losses = (functools.partial(fused, budget=2**17), plain, cross_entropy)
        made = measure.programs([(jax.value_and_grad(f, (0, 1)), h, e, y) for f in losses])
        tiled, mine, entropies = ((value, *grads) for value, grads in (m.run() for m in made))

        def pairs(a, b):
            names = ("loss", "gradient of h", "gradient of the embedding")
            return dict(zip(names, zip(a, b, strict=True), strict=True))

        out = {"fused": measure.gap(pairs(tiled, mine), 1e-4)}
        if report.torch is not None:
            there = tensors(report, h, e, y, None)
            gathered, entropy = torch_losses(report.torch)
            theirs = value_and_grad(report.torch, gathered, *there)
            out["eisl"] = measure.gap(pairs(mine, theirs), 1e-4)
            theirs = value_and_grad(report.torch, entropy, *there)
            out["cross-entropy"] = measure.gap(pairs(entropies, theirs), 1e-4)
    return out


def peers_of(report: Report, h, e, y) -> tuple[dict, dict]:
    """Of EISL and of cross-entropy."""
    torch = report.torch
    if torch is None:
        return {}, {}
    there = tensors(report, h, e, y, torch.bfloat16)

    def sides(loss):
        call = functools.partial(value_and_grad, torch)
        return {
            "eager": lambda: functools.partial(call, loss, *there),
            "compile": lambda: functools.partial(call, report.compiled(loss), *there),
        }

    gathered, entropy = torch_losses(torch)
    return sides(gathered), sides(entropy)


def run(part: str, report: Report) -> None:
    batch, length, width = (4, 8, 16) if report.small else (32, 64, 768)
    vocab = 512 if report.small else {"eisl": 32_000, "eisl_128k": 128_000}[part]
    budgets = (2**13,) if report.small else (2**24, 2**26)
    passed = gates(report)
    h, e, y = inputs(batch, length, width, vocab, jnp.bfloat16)
    matched, entropy = peers_of(report, h, e, y)
    forms = [("EISL", plain, matched, "eisl")]
    for b in budgets:  # the peers are timed beside the plain form and the first budget
        name = f"EISL, fused, tiles of {b // 2**10:,} KiB"
        peers = matched if b == budgets[0] else {}
        forms.append((name, functools.partial(fused, budget=b), peers, "fused"))
    forms.append(("cross-entropy", cross_entropy, entropy, "cross-entropy"))
    made = measure.programs([(jax.value_and_grad(f, (0, 1)), h, e, y) for _, f, *_ in forms])
    for (name, _, peers, gate), program in zip(forms, made, strict=True):
        report.compare(
            name,
            f"B {batch}, T {length}, D {width}, V {vocab:,}",
            program.run,
            peers,
            gap=passed.get(gate),
            flops=6.0 * batch * length * vocab * width,
            memory=program.memory,
        )
