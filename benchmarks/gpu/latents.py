"""The latent ODE of LatentOps on 1 and 3 classifiers, in float32, beside torchdiffeq.

dz/dt = beta(t)/2 grad E(z) from t = 1 to 0 by dopri5 at rtol = atol = 1e-5, one step size for all rows, as
torchdiffeq has it; and with a step size for each row. Ends have to agree within 3e-4 of the largest.
"""

import functools

import jax
import jax.numpy as jnp
import measure
import numpy as np
from flax import nnx
from report import Report

from jaxgen.latent_ode import energy, sample

DIM, WIDTH, LABELS, TOL = 64, 128, (2, 3, 2), 1e-5


class Classifier(nnx.Module):
    """Linear, SiLU, linear, as the operators of the LatentOps code."""

    def __init__(self, out: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(DIM, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, out, rngs=rngs)

    def __call__(self, z):
        return self.last(jax.nn.silu(self.first(z)))


def make() -> list[Classifier]:
    """Weights of trained operators are larger than those of fresh ones: logits of a few units."""
    nets = [
        measure.filled(jax.eval_shape(lambda k=k: Classifier(k, nnx.Rngs(0))), seed=k + 7 * i)
        for i, k in enumerate(LABELS)
    ]
    for net in nets:
        net.last.kernel[...] = 3.0 * net.last.kernel[...]
    return nets


def solve(nets, z, *, batched: bool):
    parts = [
        (energy.classifier(net, tuple(map(str, range(k)))), 1, 1.0)
        for net, k in zip(nets, LABELS, strict=False)
    ]
    end, stats = sample.solve(energy.compose(parts), z, rtol=TOL, atol=TOL, batched=batched)
    return end, stats.nfe


def torch_solve(report: Report, nets, z, *, compiled: bool):
    """(a function of nothing, the list that its evaluations are counted in)."""
    from torchdiffeq import odeint

    torch, calls = report.torch, [0]
    weights = [
        tuple(report.tensor(a) for a in (n.first.kernel[...], n.first.bias[...], n.last.kernel[...], n.last.bias[...]))
        for n in nets
    ]  # fmt: skip

    def total(z):
        value = 0.0
        for w1, b1, w2, b2 in weights:
            logits = torch.nn.functional.silu(z @ w1 + b1) @ w2 + b2
            value = value + (logits.logsumexp(-1) - logits[:, 1]).sum()
        return value

    gradient = torch.func.grad(total)
    if compiled:
        gradient = report.compiled(gradient)

    def field(t, z):
        calls[0] += 1
        return 0.5 * (0.1 + t * 19.9) * gradient(z)

    there, span = report.tensor(z), report.tensor([1.0, 0.0])

    def run():
        calls[0] = 0
        with torch.no_grad():
            return odeint(field, there, span, method="dopri5", rtol=TOL, atol=TOL)[-1]

    return run, calls


def run(part: str, report: Report) -> None:
    nets = make()
    cases = [(rows, ops) for rows in ((32,) if report.small else (4096, 65_536)) for ops in (1, 3)]
    if report.small:
        cases = cases[1:]
    with measure.precision("highest", report.torch):
        starts = {r: jax.random.normal(jax.random.key(r), (r, DIM)) for r, _ in cases}
        forms = [(r, k, batched) for r, k in cases for batched in (True, False)]
        calls = [
            (functools.partial(solve, batched=batched), nets[:k], starts[r])
            for r, k, batched in forms
        ]
        for (rows, count, batched), made in zip(forms, measure.programs(calls), strict=True):
            one(report, nets[:count], starts[rows], batched, made)


def one(report: Report, nets, z, batched: bool, made: measure.Program) -> None:
    peers, passed, theirs = {}, None, "-"
    end, nfe = made.run()
    if not bool(jnp.isfinite(end).all()):
        raise measure.GateError("some rows were not solved")
    if report.torch is not None:
        try:
            solved, evaluations = torch_solve(report, nets, z, compiled=False)
            passed = measure.gap({"ends": (end, solved())}, 3e-4)
            theirs = str(evaluations[0])
            peers = {
                "eager": lambda: solved,
                "compile": lambda: torch_solve(report, nets, z, compiled=True)[0],
            }
        except ImportError:
            theirs = "is not installed"
    report.compare(
        "latent ODE",
        f"{len(z):,} rows, {len(nets)} operators, a step size for {'all' if batched else 'each'}",
        made.run,
        peers if batched else {},
        gap=passed,
        memory=made.memory,
        note=f"evaluations {np.asarray(nfe).max()}, torchdiffeq {theirs}",
    )
