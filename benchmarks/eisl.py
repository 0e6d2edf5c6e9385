"""What EISL costs: against cross-entropy, against its usual formulation in PyTorch, and fused.

    pip install -e '.[parity]' && python benchmarks/eisl.py [--plot eisl.png]

(a) value and gradient with respect to logits, against the fastest plain cross-entropy, that of optax
    (gather minus logsumexp): time in turns in one process, and XLA's temporary memory;
(b) the same against EISL written as convolutions of log_softmax with an identity kernel in PyTorch;
(c) hidden states and embedding in, loss and gradients out: fused against output layer plus
    cross-entropy.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from pairs import paired

from jaxgen.losses import eisl, fused_linear

NGRAMS = (2, 3, 4)
GRID = [(b, t, v) for b in (8, 32) for t in (32, 128) for v in (8_000, 32_000)]


def our_eisl(logits, targets):
    return eisl.eisl_loss(logits, targets, ngrams=NGRAMS).mean()


def cross_entropy(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def torch_eisl(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log_softmax, gather, a convolution for each n, softmax over output positions."""
    logp = logits.log_softmax(-1)
    index = targets[:, None].expand(-1, logits.shape[1], -1)
    c = logp.gather(-1, index)[:, None]
    total = logits.new_zeros(())
    for n in NGRAMS:
        match = torch.nn.functional.conv2d(c, torch.eye(n)[None, None])[:, 0] / n
        total = total - (match.softmax(1) * match).sum(1).mean() / len(NGRAMS)
    return total


def torch_conv_eisl(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """As EISL is usually written: the target's n-grams are convolution kernels over V channels."""
    logp = logits.log_softmax(-1).transpose(1, 2)  # [B, V, T]
    batch, vocab, length = logp.shape
    total = logits.new_zeros(())
    for n in NGRAMS:
        grams = targets.unfold(1, n, 1)  # [B, J, n]
        kernel = torch.nn.functional.one_hot(grams, vocab).to(logp.dtype)  # [B, J, n, V]
        kernel = kernel.permute(0, 1, 3, 2).reshape(-1, vocab, n)
        match = torch.nn.functional.conv1d(
            logp.reshape(1, batch * vocab, length), kernel, groups=batch
        ).view(batch, -1, length - n + 1)
        match = match / n
        total = total - (match.softmax(2) * match).sum(2).mean() / len(NGRAMS)
    return total


def torch_run(loss, logits, targets):
    leaf = torch.tensor(np.asarray(logits)).requires_grad_(True)
    y = torch.tensor(np.asarray(targets), dtype=torch.int64)

    def run():
        leaf.grad = None
        loss(leaf, y).backward()
        return leaf.grad

    return run


def compiled(f, *arguments):
    """A jitted function with its arguments, and its temporary bytes."""
    built = jax.jit(f).lower(*arguments).compile()
    temporary = built.memory_analysis().temp_size_in_bytes
    return functools.partial(lambda: jax.block_until_ready(built(*arguments))), temporary


def ratio(theirs, ours):
    each = [a / b for a, b in zip(theirs, ours, strict=True)]
    return statistics.median(each), min(each), max(each)


def against_cross_entropy(rounds: int) -> list[tuple]:
    rows = []
    for b, t, v in GRID:
        logits = jax.random.normal(jax.random.key(0), (b, t, v))
        targets = jax.random.randint(jax.random.key(1), (b, t), 0, v)
        ours, our_bytes = compiled(jax.value_and_grad(our_eisl), logits, targets)
        plain, plain_bytes = compiled(jax.value_and_grad(cross_entropy), logits, targets)
        inner = max(1, 40_000_000 // (b * t * v))
        a, c = paired(ours, plain, rounds, inner)
        mid, low, high = ratio(a, c)
        rows.append((b, t, v, statistics.median(a), statistics.median(c), mid))
        print(
            f"(a) B {b} T {t} V {v}: EISL {statistics.median(a):.1f} ms, CE {statistics.median(c):.1f} "
            f"ms; EISL / CE {mid:.3f} (min {low:.3f}, max {high:.3f}); temporary memory "
            f"{our_bytes / 2**20:.1f} / {plain_bytes / 2**20:.1f} MiB",
            flush=True,
        )
    print(f"(a) median over the grid: {statistics.median(r[-1] for r in rows):.3f}")
    return rows


def against_torch(rounds: int) -> None:
    for b, t, v in [(8, 32, 8_000), (32, 32, 8_000)]:
        logits = jax.random.normal(jax.random.key(0), (b, t, v))
        targets = jax.random.randint(jax.random.key(1), (b, t), 0, v)
        ours, _ = compiled(jax.value_and_grad(our_eisl), logits, targets)
        want = jax.grad(our_eisl)(logits, targets)
        forms = {
            "V-channel convolution": torch_conv_eisl,
            "gather and convolution": torch_eisl,
        }
        for name, loss in forms.items():
            theirs = torch_run(loss, logits, targets)
            assert np.allclose(theirs().numpy(), want, atol=1e-6)
            a, c = paired(theirs, ours, max(2, rounds // 2), 1)
            mid, low, high = ratio(a, c)
            print(
                f"(b) B {b} T {t} V {v}: PyTorch, {name}, {statistics.median(a):.1f} ms, ours "
                f"{statistics.median(c):.1f} ms; ratio {mid:.1f}x (min {low:.1f}, max {high:.1f})",
                flush=True,
            )


def fused_forms(rounds: int, width: int, budget: int) -> None:
    def ours(h, e, y):
        return fused_linear.fused_loss(
            h, e, y, lambda c, _: eisl.eisl_from_pairs(c, ngrams=NGRAMS), budget=budget
        )

    def plain(h, e, y):
        return cross_entropy(jnp.einsum("btd,vd->btv", h, e), y)

    for v in (8_000, 32_000, 128_000):
        h = jax.random.normal(jax.random.key(0), (32, 32, width))
        e = jax.random.normal(jax.random.key(2), (v, width)) / width**0.5
        y = jax.random.randint(jax.random.key(1), (32, 32), 0, v)
        f, our_bytes = compiled(jax.value_and_grad(ours, (0, 1)), h, e, y)
        g, plain_bytes = compiled(jax.value_and_grad(plain, (0, 1)), h, e, y)
        a, c = paired(f, g, max(3, rounds // 2), 1)
        mid, low, high = ratio(a, c)
        print(
            f"(c) B 32 T 32 D {width} V {v}: fused EISL {statistics.median(a):.0f} ms, output layer + "
            f"CE {statistics.median(c):.0f} ms; fused / unfused {mid:.3f} (min {low:.3f}, max "
            f"{high:.3f}); temporary memory {our_bytes / 2**20:.1f} / {plain_bytes / 2**20:.1f} MiB "
            f"(the embedding's gradient is {4 * v * width / 2**20:.1f})",
            flush=True,
        )


def plot(path: str, rows: list[tuple]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    rows = sorted(rows, key=lambda r: r[0] * r[1] * r[2])
    size = [b * t * v for b, t, v, *_ in rows]
    axes.loglog(size, [r[3] for r in rows], marker="o", label="EISL")
    axes.loglog(size, [r[4] for r in rows], marker="x", label="cross-entropy")
    axes.set_xlabel("B T V")
    axes.set_ylabel("value and gradient, ms")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument(
        "--budget", type=int, default=fused_linear.BUDGET, help="bytes of logits in a tile"
    )
    parser.add_argument("--plot", default="")
    parser.add_argument("--parts", default="abc")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    if "a" in args.parts:
        rows = against_cross_entropy(args.rounds)
        if args.plot:
            plot(args.plot, rows)
    if "b" in args.parts:
        against_torch(args.rounds)
    if "c" in args.parts:
        fused_forms(args.rounds, args.width, args.budget)


if __name__ == "__main__":
    main()
