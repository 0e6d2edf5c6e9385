"""Soft unrolled texts beside plain cached decoding, and what their gradients hold in memory.

    python benchmarks/unroll.py

Both sides run in this process, in turns, on one model of GPT-2's kind. Decoding samples hard tokens, T steps with the
cache; the soft side draws distributions, which the model reads as expected embeddings. Memory is the compiler's count
of temporaries of the gradient, with the backward pass that finds earlier caches again and with a plain scan.
"""

import functools

import jax
import jax.numpy as jnp
import records
from flax import nnx
from pairs import Program, paired

from jaxgen.models import gpt2
from jaxgen.text import decoding
from jaxgen.text.gumbel_softmax import unroll


def main() -> None:
    parser = records.parser(__doc__, rounds=9)
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

    def hard(model, key):
        start = model.start(first, max_tokens=args.length)
        return decoding.sample(start, key, max_tokens=args.length).tokens

    def soft(model, key, length, rewound):
        start = model.start(first, max_tokens=length)
        start = start if rewound else start._replace(rewind=None)
        return unroll(start, key, length=length, temperature=1.0)[0]

    def loss(model, key, length, rewound):
        return (soft(model, key, length, rewound) ** 2).sum()

    def program(f, length, rewound):
        return Program(functools.partial(f, length=length, rewound=rewound), model, key)

    key, n = jax.random.key(0), args.length
    out = records.Recorder(args.json)
    sizes = {"B": args.batch, "V": args.vocab, "D": args.width, "depth": args.depth, "T": n}
    times = paired(program(soft, n, True), Program(hard, model, key), args.rounds, 3)
    sides = ("soft", "cached decoding")
    name = "soft tokens"
    out.add(
        records.pairs(name, *times, sizes=sizes, part="time", sides=sides, cost=True, target=1.3)
    )
    lengths = (n, 2 * n, longest)
    gradients = {(r, m): program(jax.grad(loss), m, r) for r in (True, False) for m in lengths}
    times = paired(gradients[True, n], gradients[False, n], args.rounds, 3)
    sides = ("caches found again", "plain scan")
    more = {"part": "gradient", "sides": sides, "cost": True}
    out.add(records.pairs("gradient", *times, sizes=sizes, **more))
    for length in lengths:
        both = [[gradients[rewound, length].temporary / 2**20] for rewound in (True, False)]
        out.add(records.pairs("temporary memory", *both, sizes={"T": length}, unit="MiB", **more))


if __name__ == "__main__":
    main()
