"""Soft unrolled texts beside plain cached decoding, and what their gradients hold in memory.

    PYTHONPATH=. python benchmarks/unroll.py

Both sides run in this process, in turns, on one model of GPT-2's kind. Decoding samples hard tokens, T steps with the
cache; the soft side draws distributions, which the model reads as expected embeddings. Memory is the compiler's count
of temporaries of the gradient, with the backward pass that finds earlier caches again and with a plain scan.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.pairs import paired, show
from jaxgen.models import gpt2
from jaxgen.text import decoding
from jaxgen.text.gumbel_softmax import unroll


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--length", type=int, default=16)
    args = parser.parse_args()
    longest = 4 * args.length
    spec = gpt2.config(
        args.vocab, width=args.width, depth=args.depth, heads=4, max_positions=longest + 1
    )
    model = jax.jit(lambda: gpt2.GPT(spec, rngs=nnx.Rngs(0)))()
    first = jnp.ones((args.batch, 1), jnp.int32)

    @jax.jit
    def hard(model, key):
        start = model.start(first, max_tokens=args.length)
        return decoding.sample(start, key, max_tokens=args.length).tokens

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def soft(model, key, length, rewound):
        start = model.start(first, max_tokens=length)
        start = start if rewound else start._replace(rewind=None)
        return unroll(start, key, length=length, temperature=1.0)[0]

    def loss(model, key, length, rewound):
        return (soft(model, key, length, rewound) ** 2).sum()

    gradient = jax.jit(jax.grad(loss), static_argnums=(2, 3))
    key, n = jax.random.key(0), args.length
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; {args}")
    times = paired(
        lambda: soft(model, key, n, True).block_until_ready(),
        lambda: hard(model, key).block_until_ready(),
        args.rounds,
        3,
    )
    show(f"{n} soft tokens", *times, other="cached decoding")
    times = paired(
        lambda: jax.block_until_ready(gradient(model, key, n, True)),
        lambda: jax.block_until_ready(gradient(model, key, n, False)),
        args.rounds,
        3,
    )
    show("their gradient, earlier caches found again", *times, other="plain scan")
    for rewound in (True, False):
        sizes = []
        for length in (n, 2 * n, longest):
            compiled = gradient.lower(model, key, length, rewound).compile()
            sizes.append(compiled.memory_analysis().temp_size_in_bytes / 2**20)
        told = ", ".join(f"{size:.1f}" for size in sizes)
        name = "found again" if rewound else "plain scan"
        print(f"{name}: {told} MiB at lengths {n}, {2 * n}, {longest}")


if __name__ == "__main__":
    main()
