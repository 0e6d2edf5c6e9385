"""What it gains on a CPU that linear layers see one axis of rows (`jaxgen.nn.rows`).

    python benchmarks/rows.py [--rounds 9]

Value and gradient of a stack of transformer blocks [B, T, D], compiled as it is and with layers that see both axes of
rows, by turns in one process. Gradients of both agree.
"""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import records
from flax import nnx
from pairs import Program, paired

from jaxgen.nn import layers
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig

# B, T, D: the record writer's, EISL's and a wider stack's, all of four blocks.
GRID = [(32, 25, 96), (32, 32, 128), (32, 64, 256)]


def compiled(stack, x):
    def loss(stack, x):  # a new one each time: jax would know the other's trace again
        return jnp.square(stack(x)[0]).mean()

    return Program(jax.value_and_grad(loss), stack, x)


def main() -> None:
    args = records.parser(__doc__, rounds=9).parse_args()
    out = records.Recorder(args.json)
    for b, t, d in GRID:
        config = TransformerConfig(width=d, depth=4, heads=4, causal=True)
        stack = Transformer(config, rngs=nnx.Rngs(0))
        x = jax.random.normal(jax.random.key(0), (b, t, d))
        ours = compiled(stack, x)
        with mock.patch.object(layers, "on_one_axis", lambda f, x: f(x)):
            theirs = compiled(stack, x)
        same = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
        jax.tree.map(same, ours()[1], theirs()[1])
        times = paired(ours, theirs, args.rounds, max(1, 400_000 // (b * t * d)))
        sides = ("one axis", "two axes")
        out.add(
            records.pairs("value and gradient", *times, sizes={"B": b, "T": t, "D": d}, sides=sides)
        )


if __name__ == "__main__":
    main()
