"""What EISL costs: against cross-entropy, against its usual formulation in PyTorch, and fused.

    pip install -e '.[parity]' && python benchmarks/eisl.py [--plot eisl.png]

(a) value and gradient with respect to logits, against the fastest plain cross-entropy, that of optax
    (gather minus logsumexp): time in turns in one process, and XLA's temporary memory;
(b) the same against EISL written as convolutions of log_softmax with an identity kernel in PyTorch;
(c) hidden states and embedding in, loss and gradients out: fused against output layer plus
    cross-entropy.
"""

import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import records
from pairs import Program, paired

from jaxgen.losses import eisl, fused_linear

NGRAMS = (2, 3, 4)
GRID = [(b, t, v) for b in (8, 32) for t in (32, 128) for v in (8_000, 32_000)]
VOCABULARIES = (8_000, 32_000, 128_000)  # of the fused form


def our_eisl(logits, targets):
    return eisl.eisl_loss(logits, targets, ngrams=NGRAMS).mean()


def cross_entropy(logits, targets):
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def torch_eisl(logits, targets):
    """log_softmax, gather, a convolution for each n, softmax over output positions."""
    import torch

    logp = logits.log_softmax(-1)
    index = targets[:, None].expand(-1, logits.shape[1], -1)
    c = logp.gather(-1, index)[:, None]
    total = logits.new_zeros(())
    for n in NGRAMS:
        match = torch.nn.functional.conv2d(c, torch.eye(n)[None, None])[:, 0] / n
        total = total - (match.softmax(1) * match).sum(1).mean() / len(NGRAMS)
    return total


def torch_conv_eisl(logits, targets):
    """As EISL is usually written: the target's n-grams are convolution kernels over V channels."""
    import torch

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
    import torch

    leaf = torch.tensor(np.asarray(logits)).requires_grad_(True)
    y = torch.tensor(np.asarray(targets), dtype=torch.int64)

    def run():
        leaf.grad = None
        loss(leaf, y).backward()
        return leaf.grad

    return run


def against_cross_entropy(rounds: int, out: records.Recorder) -> list[records.Record]:
    rows = []
    sides, part = ("EISL", "CE"), "cross-entropy"
    for b, t, v in GRID:
        logits = jax.random.normal(jax.random.key(0), (b, t, v))
        targets = jax.random.randint(jax.random.key(1), (b, t), 0, v)
        ours = Program(jax.value_and_grad(our_eisl), logits, targets)
        plain = Program(jax.value_and_grad(cross_entropy), logits, targets)
        inner = max(1, 40_000_000 // (b * t * v))
        rows.append(
            out.add(
                records.pairs(
                    "value and gradient",
                    *paired(ours, plain, rounds, inner),
                    sizes={"B": b, "T": t, "V": v},
                    part=part,
                    sides=sides,
                    cost=True,
                    target=1.3,
                    extra=memory(sides, ours.temporary, plain.temporary),
                )
            )
        )
    cells = records.Spread.of([r.ratio.median for r in rows])
    more = {"sides": sides, "rounds": len(rows), "cost": True, "target": 1.03}
    out.add(records.Record("median of the cells above", part=part, ratio=cells, **more))
    return rows


def memory(sides: tuple[str, str], ours: int, peer: int) -> dict[str, float]:
    """Temporary memory as columns, from bytes."""
    return {f"{side}, MiB": n / 2**20 for side, n in zip(sides, (ours, peer), strict=True)}


def against_torch(rounds: int, out: records.Recorder) -> None:
    if importlib.util.find_spec("torch") is None:
        out.add(records.Record("EISL in PyTorch", part="PyTorch", missing="torch is not installed"))
        return
    for b, t, v in [(8, 32, 8_000), (32, 32, 8_000)]:
        logits = jax.random.normal(jax.random.key(0), (b, t, v))
        targets = jax.random.randint(jax.random.key(1), (b, t), 0, v)
        ours = Program(jax.value_and_grad(our_eisl), logits, targets)
        want = jax.grad(our_eisl)(logits, targets)
        forms = {
            "V-channel convolution": torch_conv_eisl,
            "gather and convolution": torch_eisl,
        }
        for name, loss in forms.items():
            theirs = torch_run(loss, logits, targets)
            assert np.allclose(theirs().numpy(), want, atol=1e-6)
            times = paired(ours, theirs, max(2, rounds // 2), 1)
            out.add(records.pairs(name, *times, sizes={"B": b, "T": t, "V": v}, part="PyTorch"))


def fused_forms(rounds: int, width: int, budget: int, out: records.Recorder) -> None:
    def ours(h, e, y):
        return fused_linear.fused_loss(
            h, e, y, lambda c, _: eisl.eisl_from_pairs(c, ngrams=NGRAMS), budget=budget
        )

    def plain(h, e, y):
        return cross_entropy(jnp.einsum("btd,vd->btv", h, e), y)

    for v in VOCABULARIES:
        h = jax.random.normal(jax.random.key(0), (32, 32, width))
        e = jax.random.normal(jax.random.key(2), (v, width)) / width**0.5
        y = jax.random.randint(jax.random.key(1), (32, 32), 0, v)
        f = Program(jax.value_and_grad(ours, (0, 1)), h, e, y)
        g = Program(jax.value_and_grad(plain, (0, 1)), h, e, y)
        sizes, most = {"B": 32, "T": 32, "D": width, "V": v}, v == VOCABULARIES[-1]
        more = {"part": "fused", "sides": ("fused EISL", "output layer and CE"), "cost": True}
        out.add(
            records.pairs(
                "value and gradients",
                *paired(f, g, max(3, rounds // 2), 1),
                sizes=sizes,
                target=1.15 if most else None,
                extra={"embedding's gradient, MiB": 4 * v * width / 2**20},
                **more,
            )
        )
        both = [[n / 2**20] for n in (f.temporary, g.temporary)]
        target = 0.1 if most else None
        out.add(
            records.pairs("temporary memory", *both, sizes=sizes, unit="MiB", target=target, **more)
        )


def plot(path: pathlib.Path, rows: list[records.Record]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    rows = sorted(rows, key=lambda r: math.prod(r.sizes.values()))
    size = [math.prod(r.sizes.values()) for r in rows]
    axes.loglog(size, [r.ours.median for r in rows], marker="o", label="EISL")
    axes.loglog(size, [r.peer.median for r in rows], marker="x", label="cross-entropy")
    axes.set_xlabel("B T V")
    axes.set_ylabel("value and gradient, ms")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = records.parser(__doc__, rounds=7)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument(
        "--budget", type=int, default=fused_linear.BUDGET, help="bytes of logits in a tile"
    )
    parser.add_argument("--plot", type=pathlib.Path)
    parser.add_argument("--parts", default="abc")
    args = parser.parse_args()
    out = records.Recorder(args.json)
    if "a" in args.parts:
        rows = against_cross_entropy(args.rounds, out)
        if args.plot:
            plot(args.plot, rows)
    if "b" in args.parts:
        against_torch(args.rounds, out)
    if "c" in args.parts:
        fused_forms(args.rounds, args.width, args.budget, out)


if __name__ == "__main__":
    main()
