"""Causal attention, value and gradients in bf16: XLA's operations and cuDNN's kernel, beside torch's."""

import functools

import jax
import jax.numpy as jnp
import measure
from report import Report

from jaxgen.nn import attention


def attend(implementation, q, k, v):
    """The mean square of the outputs."""
    size = q.shape[1]
    mask = jnp.tril(jnp.ones((size, size), bool))[None, None]
    scale = q.shape[-1] ** -0.5
    more = {"implementation": implementation, "causal": True}
    y = attention.attend(q, k, v, mask, None, scale=scale, **more)
    return (y.astype(jnp.float32) ** 2).mean()


def torch_attend(torch, f, q, k, v):
    value = f(q, k, v)
    return value, *torch.autograd.grad(value, (q, k, v))


def torch_form(torch):
    def f(q, k, v):
        heads = (a.transpose(1, 2) for a in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        return (y.float() ** 2).mean()

    return f


def run(part: str, report: Report) -> None:
    torch = report.torch
    shape = (2, 16, 2, 8) if report.small else (8, 2048, 12, 64)
    batch, length, heads, size = shape
    keys = jax.random.split(jax.random.key(0), 3)
    exact = [jax.random.normal(k, shape) for k in keys]
    half = [a.astype(jnp.bfloat16) for a in exact]
    peers, theirs = {}, None
    if torch is not None:
        there = [report.tensor(a, torch.bfloat16).requires_grad_(True) for a in half]
        call = functools.partial(torch_attend, torch)
        theirs = call(torch_form(torch), *there)
        peers = {
            "eager": lambda: functools.partial(call, torch_form(torch), *there),
            "compile": lambda: functools.partial(call, report.compiled(torch_form(torch)), *there),
        }
    names = ("value", "dq", "dk", "dv")
    forms = ("xla", "cudnn") if report.platform == "gpu" else ("xla",)
    calls = [
        (jax.value_and_grad(functools.partial(attend, name), (0, 1, 2)), *half) for name in forms
    ]
    first = None
    for name, made in zip(forms, measure.programs(calls), strict=True):
        value, grads = made.run()
        got = dict(zip(names, (value, *grads), strict=True))
        first = first or got
        other = dict(zip(names, theirs, strict=True)) if theirs else first
        passed = measure.gap({n: (got[n], other[n]) for n in names}, 2e-2)
        report.compare(
            f"causal attention, {name}",
            f"B {batch}, T {length:,}, H {heads}, K {size}",
            made.run,
            peers,
            gap=passed,
            flops=3.5 * 4 * batch * heads * length**2 * size / 2,
            memory=made.memory,
        )
