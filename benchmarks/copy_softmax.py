"""What the joint softmax of words and copies costs, against the plain softmax over words.

    python benchmarks/copy_softmax.py [--rounds 9]

Decoder states in; loss and gradients with respect to states, output weights and copy scores out, by turns in one
process: the output layer with optax's cross-entropy, against the output layer with `joint_logprob`. The claim is at
most 1.2 times as much.
"""

import jax
import jax.numpy as jnp
import optax
import records
from pairs import Program, paired

from jaxgen.nn.copy_attention import joint_logprob

# B, T, D, V, M: the default sizes on the NBA data, its longest records, and a paper-size width.
GRID = [(32, 32, 192, 4245, 10), (32, 50, 192, 4245, 40), (32, 32, 384, 6900, 40)]


def plain(h, out, targets):
    return optax.softmax_cross_entropy_with_integer_labels(h @ out, targets).mean()


def joint(h, out, copy, ids, mask, targets):
    logp, _ = joint_logprob(h @ out, copy, ids, mask, targets)
    return -logp.mean()


def main() -> None:
    args = records.parser(__doc__, rounds=9).parse_args()
    report = records.Recorder(args.json)
    for b, t, d, v, m in GRID:
        keys = jax.random.split(jax.random.key(0), 5)
        h = jax.random.normal(keys[0], (b, t, d))
        out = jax.random.normal(keys[1], (d, v)) / d**0.5
        copy = jax.random.normal(keys[2], (b, t, m))
        ids = jax.random.randint(keys[3], (b, m), 4, v + m)
        targets = jax.random.randint(keys[4], (b, t), 4, v)
        mask = jnp.arange(m) < jnp.arange(1, b + 1)[:, None] * m // b
        ours = Program(jax.value_and_grad(joint, (0, 1, 2)), h, out, copy, ids, mask, targets)
        theirs = Program(jax.value_and_grad(plain, (0, 1)), h, out, targets)
        times = paired(ours, theirs, args.rounds, 1)
        sizes = {"B": b, "T": t, "D": d, "V": v, "M": m}
        sides = ("joint", "plain")
        report.add(
            records.pairs("softmax", *times, sizes=sizes, sides=sides, cost=True, target=1.2)
        )


if __name__ == "__main__":
    main()
