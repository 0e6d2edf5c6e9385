"""Where the time of a train step of the record writer goes: encoders, decoder, copy softmax, coverage.

    python benchmarks/record_writer.py [--rounds 5] [--paper]

Value and gradient of one loss that grows by one part at a time, at the sizes of `configs/content_manipulation/nba.py`;
the parts' times are differences of medians, so that they add up to the step. The optimiser's update is the last part.
"""

import statistics

import jax
import jax.numpy as jnp
import optax
import records
from flax import nnx
from pairs import Program, paired

from jaxgen.losses.coverage import exact_coverage, possible_nll
from jaxgen.models.data_to_text import DataToText, RecordIds
from jaxgen.text.masking import eos_mask

# Rows (both objectives), T, M, V, G, width, heads, coverage state.
DEFAULT, PAPER = (32, 33, 10, 4105, 3112, 96, 4, 32), (64, 52, 40, 5504, 4245, 384, 8, 128)


def encoders(model, record, style, target):
    return jnp.square(model.encode(record, style).states).mean()


def decoder(model, record, style, target):
    states, memory = model.states(record, style, target)
    return jnp.square(states).mean() + jnp.square(memory.keys).mean()


def softmax(model, record, style, target):
    logp, _ = model.logprob(record, style, target)
    return possible_nll(logp, eos_mask(target, 2))[0].mean()


def coverage(model, record, style, target):
    logp, copied = model.logprob(record, style, target)
    said = eos_mask(target, 2)
    covered = exact_coverage(copied, step_mask=said, tuple_mask=record.mask)
    return (possible_nll(logp, said)[0] + 0.2 * covered).mean()


def update(model, *inputs):
    """A whole step of Adam."""
    tx = optax.adamw(1e-3)
    value, grads = jax.value_and_grad(coverage)(model, *inputs)
    updates, _ = tx.update(grads, tx.init(model), model)
    return value, optax.apply_updates(model, updates)


def main() -> None:
    parser = records.parser(__doc__, rounds=5)
    parser.add_argument("--paper", action="store_true", help="the sizes of configs/.../paper.py")
    args = parser.parse_args()
    b, t, m, v, g, width, heads, state = PAPER if args.paper else DEFAULT
    out = records.Recorder(args.json)
    sizes = {"B": b, "T": t, "M": m, "D": width}
    keys = jax.random.split(jax.random.key(0), 5)
    ids = lambda key, *shape: jax.random.randint(key, shape, 4, g)  # noqa: E731
    record = RecordIds(ids(keys[0], b, m) % 30, ids(keys[1], b, m) + v - g, ids(keys[2], b, m))
    inputs = record, ids(keys[3], b, t), ids(keys[4], b, t)

    def make(covered):
        options = {"width": width, "heads": heads, "coverage": covered, "dropout": 0.0}
        return DataToText(v, 35, generated=g, **options, rngs=nnx.Rngs(0))

    def compiled(f, model):
        return Program(f, model, *inputs)

    plain, whole = make(0), make(state)
    grad = jax.value_and_grad
    stages = {
        "encoders": compiled(grad(encoders), plain),
        "decoder": compiled(grad(decoder), plain),
        "words and copies": compiled(grad(softmax), plain),
        "coverage term": compiled(grad(coverage), plain),
        "coverage state": compiled(grad(coverage), whole),
        "update": compiled(update, whole),
    }
    # By turns with the whole step, so that what else a machine does falls on both.
    before = 0.0
    for name, run in stages.items():
        x, y = paired(run, stages["update"], args.rounds, 1)
        share = statistics.median(p / q for p, q in zip(x, y, strict=True))
        extra = {"of a step, %": 100 * (share - before)}
        sides = ("so far", "whole step")
        out.add(records.pairs(name, x, y, sizes=sizes, sides=sides, cost=True, extra=extra))
        before = share


if __name__ == "__main__":
    main()
