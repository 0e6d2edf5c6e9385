"""The latent ODE of LatentOps, against torchdiffeq on the same operators.

    pip install -e '.[parity]' && python benchmarks/latent_ode.py
    python benchmarks/latent_ode.py --trace    # where our time goes, by kind of operation, with 3 operators

Operators are MLP classifiers on latents of size 64; both sides have the same weights and solve
dz/dt = beta(t)/2 grad E(z) from t = 1 to 0 with dopri5 at rtol = atol = 1e-5, and must end at the same
latents within 1e-3. torchdiffeq has one step size for the whole batch. Ours is timed with a step size
for each row (the default) and with one for the batch.
"""

import functools

import jax
import numpy as np
import op_times
import records
import torch
from flax import nnx
from pairs import Program, paired
from torchdiffeq import odeint

from jaxgen.latent_ode import energy, sample

DIM, WIDTH, LABELS = 64, 128, (2, 3, 2)
TOL = 1e-5
# (samples, operators, one step size for all) -> torchdiffeq's time over ours.
TARGETS = {(150, 1, True): 10.0, (150, 3, True): 7.0, (4096, 1, True): 5.5, (4096, 3, True): 2.8}
TARGETS |= {(4096, 1, False): 4.0, (4096, 3, False): 2.3}


class Classifier(nnx.Module):
    """Linear, SiLU, linear, as the operators of the LatentOps code."""

    def __init__(self, out: int, rngs: nnx.Rngs):
        self.first = nnx.Linear(DIM, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, out, rngs=rngs)

    def __call__(self, z):
        return self.last(jax.nn.silu(self.first(z)))


def to_torch(net: Classifier) -> torch.nn.Module:
    layers = [
        torch.nn.Linear(DIM, WIDTH),
        torch.nn.SiLU(),
        torch.nn.Linear(WIDTH, net.last.out_features),
    ]
    for target, source in ((layers[0], net.first), (layers[2], net.last)):
        target.weight.data = torch.tensor(np.asarray(source.kernel[...]).T.copy())
        target.bias.data = torch.tensor(np.asarray(source.bias[...]))
    return torch.nn.Sequential(*layers).requires_grad_(False)


def torch_solve(nets: list[torch.nn.Module], z: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The equation as it stands on the method's page; returns the ends and the evaluations."""
    count = 0

    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            logits = [net(leaf) for net in nets]
            total = sum((f.logsumexp(-1) - f[:, 1]).sum() for f in logits)
            (gradient,) = torch.autograd.grad(total, leaf)
        return 0.5 * (0.1 + t * 19.9) * gradient

    end = odeint(field, z, torch.tensor([1.0, 0.0]), method="dopri5", rtol=TOL, atol=TOL)[-1]
    return end, count


def solve(nets, z, *, batched):
    parts = [
        (energy.classifier(net, tuple(map(str, range(k)))), 1, 1.0)
        for net, k in zip(nets, LABELS, strict=False)
    ]
    return sample.solve(energy.compose(parts), z, rtol=TOL, atol=TOL, batched=batched)


def compare(nets: list[Classifier], count: int, rounds: int, out: records.Recorder) -> None:
    """Both step sizes of ours against torchdiffeq, after checking that the ends agree."""
    z = np.asarray(jax.random.normal(jax.random.key(count), (count, DIM)))
    theirs, torch_z = [to_torch(net) for net in nets], torch.tensor(z)
    want, evaluations = torch_solve(theirs, torch_z)
    for batched in (False, True):
        run = jax.jit(functools.partial(solve, batched=batched))
        end, stats = run(nets, z)
        gap = float(np.abs(np.asarray(end) - want.numpy()).max())
        assert gap < 1e-3, gap
        ours = functools.partial(lambda run: jax.block_until_ready(run(nets, z)[0]), run)
        times = paired(ours, lambda: torch_solve(theirs, torch_z), rounds, 3 if count < 1000 else 1)
        nfe = np.asarray(stats.nfe)
        out.add(
            records.pairs(
                "one step size for all" if batched else "a step size a row",
                *times,
                sizes={"samples": count, "operators": len(nets)},
                sides=("ours", "torchdiffeq"),
                target=TARGETS.get((count, len(nets), batched)),
                extra={
                    "evaluations of ours, mean": round(float(nfe.mean())),
                    "most": int(nfe.max()),
                    "of torchdiffeq": evaluations,
                    "ends differ by": gap,
                },
            )
        )


def main() -> None:
    parser = records.parser(__doc__, rounds=7)
    parser.add_argument("--samples", type=int, nargs="+", default=[150, 4096])
    parser.add_argument("--trace", action="store_true", help="of ours; nothing is compared")
    args = parser.parse_args()
    if args.trace:
        op_times.use_cpu()
    out = records.Recorder(args.json)
    # Weights of trained operators are larger than those of fresh ones: logits of a few units.
    nets = [Classifier(k, nnx.Rngs(i)) for i, k in enumerate(LABELS)]
    for net in nets:
        net.last.kernel[...] = 3.0 * net.last.kernel[...]
    if args.trace:
        z = jax.random.normal(jax.random.key(0), (args.samples[-1], DIM))
        run = Program(functools.partial(solve, batched=True), nets, z)
        kinds = {"the field's sums and elementwise": ("jvp", "grad"), "the solver's": ("",)}
        out.extend(op_times.by_kind(run, run.built.as_text(), calls=args.rounds, kinds=kinds))
        return
    for count in args.samples:
        for operators in (1, 2, 3):
            compare(nets[:operators], count, args.rounds, out)


if __name__ == "__main__":
    main()
