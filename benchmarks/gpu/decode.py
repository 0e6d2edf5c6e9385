"""Greedy decoding in bf16 at the shapes of GPT-2-small and SmolLM2-135M: the tokens after a prompt of 64.

The least that a token can cost is reading all weights and the keys and values so far; "of bandwidth" is
that against a copy's rate. Weights are random where no file is given.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import measure
import numpy as np
from flax import nnx
from report import Report

from jaxgen.models import gpt2, hf, llama
from jaxgen.nn.rotary import Rotary
from jaxgen.text import decoding

PROMPT, NEW = 64, 128


def shape_of(part: str, small: bool) -> gpt2.GPTConfig:
    tiny = {"width": 16, "depth": 2, "heads": 4, "max_positions": 64}
    if part == "gpt2":
        sizes = {"width": 768, "depth": 12, "heads": 12, "max_positions": 1024}
        return gpt2.config(53 if small else 50_257, **(tiny if small else sizes))
    sizes = {"width": 576, "depth": 30, "heads": 9, "kv_heads": 3, "mlp_width": 1536}
    sizes |= {"max_positions": 8192, "rotary": Rotary(base=100_000.0)}
    tiny |= {"kv_heads": 2, "mlp_width": 24}
    return llama.config(53 if small else 49_152, tied=True, **(tiny if small else sizes))


def in_dtype(model: gpt2.GPT, dtype: str) -> gpt2.GPT:
    """The model with parameters and computation in a dtype."""
    stack = dataclasses.replace(model.config.stack, dtype=dtype)
    config = dataclasses.replace(model.config, stack=stack)
    blank = jax.eval_shape(lambda: gpt2.GPT(config, rngs=nnx.Rngs(0)))
    leaves = [a.astype(dtype) for a in jax.tree.leaves(model)]
    return jax.tree.unflatten(jax.tree.structure(blank), leaves)


def load(part: str, report: Report) -> gpt2.GPT:
    if report.files[part]:
        return hf.load(report.files[part])
    config = shape_of(part, report.small)
    return measure.filled(jax.eval_shape(lambda: gpt2.GPT(config, rngs=nnx.Rngs(0))))


def least_bytes(model: gpt2.GPT, batch: int, filled: int) -> float:
    """Of a token: all weights but the table of positions, and the keys and values that are there."""
    weights = sum(a.nbytes for a in jax.tree.leaves(model))
    if model.positions is not None:
        weights -= model.positions.embedding[...].nbytes
    s = model.config.stack
    return weights + batch * filled * s.depth * 2 * s.kv_width * 2


def decode(model: gpt2.GPT, cache, logits, *, new: int):
    """The tokens after a prompt that was read."""

    def step(cache, token):
        logits, cache = model(token[:, None], cache=cache)
        return logits[:, 0], cache

    start = decoding.Start(step, cache, logits, new)
    return decoding.greedy(start, max_tokens=new).tokens


@functools.partial(jax.jit, static_argnames="new")
def read(model: gpt2.GPT, tokens, *, new: int):
    """Cache and logits after a prompt."""
    start = model.start(tokens, max_tokens=new)
    return start.cache[0], start.logits


def gate(report: Report, model: gpt2.GPT, net) -> float:
    """In float32: the logits after a prompt of 8, and after each of three more tokens by the caches."""
    torch, vocab = report.torch, model.config.vocab_size
    with measure.precision("highest", torch), torch.no_grad():
        tokens = np.random.default_rng(0).integers(0, vocab, (2, 11)).astype(np.int32)
        there = report.tensor(tokens, torch.int64)
        net.start(2, 11)
        cache, logits = read(model, jnp.asarray(tokens[:, :8]), new=3)
        step = jax.jit(lambda model, token, cache: model(token, cache=cache))
        place = torch.arange(8, device=report.device)
        pairs = {"prompt": (logits, net(there[:, :8], place))}
        for i in range(8, 11):
            logits, cache = step(model, jnp.asarray(tokens[:, i : i + 1]), cache)
            theirs = net(there[:, i : i + 1], torch.tensor([i], device=report.device))
            pairs[f"token {i}"] = (logits[:, 0], theirs)
        return measure.gap(pairs, 1e-3)


def peers_of(report: Report, net, tokens, prompt: int, new: int) -> dict:
    if net is None:
        return {}
    import torch_gpt

    torch = report.torch
    there = report.tensor(tokens, torch.int64)

    def ready(compiled: bool):
        """Reads the prompt; what is timed decodes from there, again and again."""
        net.start(len(tokens), prompt + new)
        with torch.no_grad():
            first = net(there, torch.arange(prompt, device=report.device))
        step = torch_gpt.step_of(net)
        if compiled:
            step = report.compiled(step, graphs=True)
        place = torch.tensor([prompt], device=report.device)
        token = first.argmax(-1, keepdim=True)
        return functools.partial(torch_gpt.greedy, step, token, place, new)

    return {"eager": lambda: ready(False), "compile": lambda: ready(True)}


def run(part: str, report: Report) -> None:
    prompt, new = (8, 4) if report.small else (PROMPT, NEW)
    model, nets, passed = load(part, report), {}, None
    why = ""
    if report.torch is not None:
        try:
            import torch_gpt

            net = torch_gpt.GPT(model).to(report.device)
            passed = gate(report, model, net)
            nets = {"eager": net.bfloat16()}
        except ValueError as e:  # a file of another form
            why = str(e)
    half = in_dtype(model, "bfloat16")
    batches = (2,) if report.small else (1, 16, 128)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, model.config.vocab_size, (b, prompt)) for b in batches]
    calls = []
    for tokens in prompts:
        cache, logits = read(half, jnp.asarray(tokens, jnp.int32), new=new)
        calls.append((functools.partial(decode, new=new), half, cache, logits))
    name = {"gpt2": "GPT-2-small", "smollm2": "SmolLM2-135M"}[part]
    for tokens, made in zip(prompts, measure.programs(calls), strict=True):
        report.compare(
            f"decode, {name}'s shape",
            f"batch {len(tokens)}, {new} tokens after {prompt}, ms a token",
            made.run,
            peers_of(report, nets.get("eager"), tokens, prompt, new),
            gap=passed,
            bytes=new * least_bytes(half, len(tokens), prompt + new // 2),
            memory=made.memory,
            per=new,
            note=why,
        )
