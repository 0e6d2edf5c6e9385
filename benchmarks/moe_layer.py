"""What a mixture of experts costs beyond its experts' matrix products, on CPU.

    python benchmarks/moe_layer.py

(a) Router, top-k gate, dispatch and combine over the experts alone: the same number of rows, already in equal
    buffers, through the same two products (the least that E experts can cost). Target: at most 1.12. Where the
    rest goes: the same rows, sorted, through the grouped products alone, in groups as routed and in even ones.
(b) Dropless against buffers with a capacity factor of 1.25 (which drop) and of 2.
(c) Growth with E and N, of dropless and of the formulation with a dispatch mask [N, E, C] (GShard's einsum).

Forward, and forward with gradients, in turns in one process.
"""

from typing import Any

import jax
import jax.numpy as jnp
import records
from flax import nnx
from pairs import paired

from jaxgen.moe import dispatch, gates, layer


def sides(experts: int, tokens: int, k: int, width: int, hidden: int, factor: float) -> Any:
    """(layer, experts alone, einsum with a mask, grouped as routed, grouped evenly), forward and with gradients.

    Functions of nothing.
    """
    model = layer.MoE(experts, width, hidden, capacity_factor=factor, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (tokens, width))
    rows = jax.random.normal(jax.random.key(1), (experts, tokens * k // experts, width))
    route = layer.MoEContext(lambda logits, _: gates.top_k(logits, k, normalise=True))

    def whole(model: Any, x: Any) -> Any:
        return model(x, route)[0]

    def alone(model: Any, rows: Any) -> Any:
        return model.experts.on_buffers(rows)

    def masked(model: Any, x: Any) -> Any:
        routing = route.gate(model.router(x), None)
        slots = dispatch.capacity_of(tokens, experts, k, factor or 1.25)
        member = jax.nn.one_hot(routing.expert_ids.T.reshape(-1), experts, dtype=jnp.int32)
        place = ((jnp.cumsum(member, 0) - 1) * member).sum(-1)
        seat = jax.nn.one_hot(place, slots) * (place < slots)[:, None]
        mask = (member[:, :, None] * seat[:, None]).reshape(k, tokens, experts, slots)
        combine = jnp.einsum("knec,nk->nec", mask, routing.weights)
        buffers = jnp.einsum("knec,nd->ecd", mask, x)
        return jnp.einsum("nec,ecd->nd", combine, model.experts.on_buffers(buffers))

    def grouped(sizes: Any) -> Any:
        return lambda model, rows: model.experts.on_groups(model.experts.weights(rows), rows, sizes)

    routed = route.gate(model.router(x), None).counts(experts)
    even, flat = jnp.full(experts, tokens * k // experts), rows.reshape(-1, width)
    out = []
    cases = ((whole, x), (alone, rows), (masked, x), (grouped(routed), flat), (grouped(even), flat))
    for f, argument in cases:
        forward = jax.jit(f)
        both = jax.jit(jax.grad(lambda m, a, f=f: (f(m, a) ** 2).sum(), (0, 1)))
        for run in (forward, both):
            out.append(lambda run=run, a=argument: jax.block_until_ready(run(model, a)))
    return out


def main() -> None:
    args = records.parser(__doc__, rounds=7).parse_args()
    out = records.Recorder(args.json)

    def compare(
        name: str, ours: Any, peer: Any, sides: tuple[str, str], part: str, **more: Any
    ) -> None:
        times = paired(ours, peer, args.rounds, 1)
        out.add(records.pairs(name, *times, sides=sides, part=part, **more))

    kinds = ("forward", "with gradients")
    print("(a) d 512, hidden 2,048, E 16, k 2, N 4,096")
    dropless = sides(16, 4096, 2, 512, 2048, 0.0)
    beside = (("layer", 0, 1.12), ("sorted rows, groups as routed", 6, None))
    for name, at, target in (*beside, ("sorted rows, even groups", 8, None)):
        for i, kind in enumerate(kinds):
            run, alone = dropless[at + i], dropless[2 + i]
            names = ("this", "experts alone")
            compare(f"{name}, {kind}", run, alone, names, "alone", cost=True, target=target)
    print("(b) the same sizes")
    for factor in (1.25, 2.0):
        buffers = sides(16, 4096, 2, 512, 2048, factor)
        for i, kind in enumerate(kinds):
            name = f"factor {factor}, {kind}"
            compare(name, dropless[i], buffers[i], ("dropless", "buffers"), "buffers")
    print("(c) d 128, hidden 256, k 2, forward")
    for experts, tokens in ((8, 1024), (16, 1024), (64, 1024), (16, 2048), (16, 4096)):
        made = sides(experts, tokens, 2, 128, 256, 0.0)
        sizes = {"E": experts, "N": tokens}
        compare("forward", made[0], made[4], ("dropless", "mask"), "mask", sizes=sizes)


if __name__ == "__main__":
    main()
