"""A layer of experts, value and gradients in bf16: each form of the grouped product, beside torch.

The layer is router, top-2 gate, dispatch, experts, combine. "Experts alone" is the least that they can
cost: the same number of rows, already in equal buffers, through the same two products.
"""

import functools

import jax
import jax.numpy as jnp
import measure
from flax import nnx
from report import Report

from jaxgen.moe import gates, grouped, layer

K = 2


def torch_layer(torch):
    """Router, top-k softmax, and a loop over experts with rows gathered and added back."""

    def forward(x, router, up, down):
        chance = (x.float() @ router).softmax(-1)
        weight, expert = chance.topk(K, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e in range(up.shape[0]):
            row, choice = torch.where(expert == e)
            h = torch.nn.functional.gelu(x[row] @ up[e], approximate="tanh") @ down[e]
            y = y.index_add(0, row, h * weight[row, choice, None].to(h.dtype))
        return y

    return forward


def torch_buffers(torch):
    """Experts on equal buffers: two batched products."""

    def forward(x, up, down):
        return torch.bmm(torch.nn.functional.gelu(torch.bmm(x, up), approximate="tanh"), down)

    return forward


def squared(y):
    return (y.astype(jnp.float32) ** 2).mean()


def with_grad(torch, forward, *leaves):
    """The mean square of the outputs, and its gradients."""
    value = (forward(*leaves).float() ** 2).mean()
    return value, *torch.autograd.grad(value, leaves)


def whole(model: layer.MoE, x: jax.Array, form: str | None) -> jax.Array:
    gate = functools.partial(gates.top_k, k=K, normalise=True)
    route = layer.MoEContext(lambda logits, _: gate(logits), grouped=form)
    return squared(model(x, route)[0])


def alone(model: layer.MoE, rows: jax.Array) -> jax.Array:
    return squared(model.experts.on_buffers(rows))


def weights(model: layer.MoE) -> tuple[jax.Array, ...]:
    return tuple(p[...] for p in (model.router.kernel, model.experts.up, model.experts.down))


def make(experts: int, width: int, hidden: int, dtype) -> layer.MoE:
    """Experts in a dtype, a float32 router."""
    model = layer.MoE(experts, width, hidden, rngs=nnx.Rngs(0))
    for p in (model.experts.up, model.experts.down):
        p[...] = p[...].astype(dtype)
    return model


def gates_of(report: Report, experts: int) -> dict[str, float]:
    """At a small size in float32: the blocks against torch, and the other forms against them.

    A form that fails is told, and not in the result.
    """
    passed = {}
    with measure.precision("highest", report.torch):
        model = make(experts, 32, 64, jnp.float32)
        x = jax.random.normal(jax.random.key(1), (300, 32))
        forms = [functools.partial(whole, form=form) for form in grouped.IMPLEMENTATIONS]
        made = measure.programs([(jax.value_and_grad(f, (0, 1)), model, x) for f in forms])
        value, grads = made[0].run()
        first = [value, grads[1], *weights(grads[0])]
        if report.torch is not None:
            leaves = [report.tensor(a).requires_grad_(True) for a in (x, *weights(model))]
            theirs = with_grad(report.torch, torch_layer(report.torch), *leaves)
            passed[grouped.IMPLEMENTATIONS[0]] = measure.gap(named(first, theirs), 1e-4)
        for form, program in zip(grouped.IMPLEMENTATIONS, made, strict=True):
            try:
                value, grads = program.run()
                gap = measure.gap(named([value, grads[1], *weights(grads[0])], first), 1e-4)
                passed[form] = max(gap, passed.get(grouped.IMPLEMENTATIONS[0], 0.0))
            except Exception as e:
                report.fail(f"MoE layer, {form}", e)
    return passed


def named(ours, theirs) -> dict:
    pairs = zip(ours, theirs, strict=True)
    return dict(zip(("value", "dx", "router", "up", "down"), pairs, strict=True))


def run(part: str, report: Report) -> None:
    tokens, width, hidden, experts = (64, 16, 32, 4) if report.small else (16_384, 1024, 4096, 16)
    passed = gates_of(report, experts)
    model = make(experts, width, hidden, jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (tokens, width)).astype(jnp.bfloat16)
    rows = jax.random.normal(jax.random.key(1), (experts, tokens * K // experts, width))
    rows = rows.astype(jnp.bfloat16)
    size = f"N {tokens:,}, d {width:,}, h {hidden:,}, E {experts}, k {K}"
    flops = 3 * 2 * 2.0 * tokens * K * width * hidden  # two products, forward and both gradients
    torch, layers, buffers = report.torch, {}, {}
    if torch is not None:
        router, up, down = weights(model)
        parts = [report.tensor(router), *(report.tensor(a, torch.bfloat16) for a in (up, down))]
        leaves = [report.tensor(x, torch.bfloat16), *parts]
        dense = [report.tensor(rows, torch.bfloat16), *parts[1:]]
        for leaf in (*leaves, dense[0]):
            leaf.requires_grad_(True)

        def sides(f, args):
            call = functools.partial(with_grad, torch)
            return {
                "eager": lambda: functools.partial(call, f, *args),
                "compile": lambda: functools.partial(call, report.compiled(f), *args),
            }

        layers = sides(torch_layer(torch), leaves)
        buffers = sides(torch_buffers(torch), dense)
    forms = [form for form in ("padded", "blocks", "ragged") if form in passed]
    calls = [(jax.value_and_grad(alone, (0, 1)), model, rows)]
    for form in forms:
        f = functools.partial(whole, form=form)
        calls.append((jax.value_and_grad(f, (0, 1)), model, x))
    dense_made, *layers_made = measure.programs(calls)
    report.compare(
        "experts alone",
        size,
        dense_made.run,
        buffers,
        flops=flops,
        memory=dense_made.memory,
    )
    for form, made in zip(forms, layers_made, strict=True):
        report.compare(
            f"MoE layer, {form}",
            size,
            made.run,
            layers if form == forms[0] else {},
            gap=passed[form],
            flops=flops,
            memory=made.memory,
        )
