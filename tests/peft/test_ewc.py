"""Fisher information and penalties: closed forms, loops, and what a penalty on a product is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import gpt2
from jaxgen.peft import ewc, lora

WIDTH, VOCAB, T = 8, 11, 5
TARGETS = ("attention",)


def model_of(seed=0):
    spec = gpt2.config(VOCAB, width=WIDTH, depth=2, heads=2, max_positions=T)
    return gpt2.GPT(spec, rngs=nnx.Rngs(seed))


def wrapped_of(model, *, busy=False):
    out = lora.wrap(model, 2, 8.0, TARGETS, jax.random.key(1))
    if busy:
        for i, (_, _, _, layer) in enumerate(lora.layers(out, lora.LoRALinear)):
            layer.b[...] = 0.1 * jax.random.normal(jax.random.key(i), layer.b.shape)
    return out


def text_logprob(reduce="sum", labels="data"):
    def logprob(model, row):
        logits = model(row["tokens"][None, :-1])[0][0]
        key = row["key"] if labels == "model" else None
        real = row["real"][1:].astype(jnp.float32)
        return ewc.log_likelihood(logits, row["tokens"][1:], real, reduce=reduce, key=key)

    return logprob


def rows_of(count, seed=0):
    rng = np.random.default_rng(seed)
    real = np.arange(T) < rng.integers(2, T + 1, count)[:, None]
    return {
        "tokens": jnp.asarray(np.where(real, rng.integers(1, VOCAB, (count, T)), 0), jnp.int32),
        "real": jnp.asarray(real),
    }


def part(rows, *which):
    return jax.tree.map(lambda a: a[slice(*which)], rows)


def close(a, b, **options):
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(a[path], b[path], err_msg=path, **options)


class Softmax(nnx.Module):
    """p(y | x) = softmax(x W)."""

    def __init__(self, w):
        self.kernel = nnx.Param(w)


def test_fisher_of_a_linear_softmax_is_its_closed_form():
    """Empirical: E (x_i (1[y=j] - p_j))^2; true: E x_i^2 p_j (1 - p_j)."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    y = rng.integers(0, 4, 6)
    model = Softmax(jnp.asarray(w))

    def logprob(model, row):
        return jax.nn.log_softmax(row["x"] @ model.kernel[...])[row["y"]]

    found = ewc.fisher_diagonal(logprob, model, [{"x": jnp.asarray(x), "y": jnp.asarray(y)}])
    p = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True)
    residual = np.eye(4)[y] - p
    close(found, {"kernel": (x[:, :, None] ** 2 * residual[:, None] ** 2).mean(0)}, rtol=2e-5)

    def sampled(model, row):
        logits = (row["x"] @ model.kernel[...])[None]
        none = jnp.zeros(1, jnp.int32)
        return ewc.log_likelihood(logits, none, jnp.ones(1), key=row["key"])

    draws = 4000
    repeated = jnp.asarray(np.repeat(x, draws, 0))
    keys = jax.random.split(jax.random.key(0), len(repeated))
    found = ewc.fisher_diagonal(sampled, model, [{"x": repeated, "key": keys}])["kernel"]
    want = (x[:, :, None] ** 2 * (p * (1 - p))[:, None]).mean(0)
    # The standard error of a mean of squares in [0, max x^2], four of them.
    bound = 4 * (x**2).max() * 0.5 / np.sqrt(len(repeated))
    np.testing.assert_allclose(found, want, atol=bound)


@pytest.mark.parametrize("where", ["all", "wrapped", "factors"])
def test_fisher_is_a_loop_of_gradients_whatever_the_batches(where):
    model = model_of() if where == "all" else wrapped_of(model_of(), busy=True)
    rows, logprob = rows_of(6), text_logprob()
    found = ewc.fisher_diagonal(logprob, model, [rows], where=where)
    parts = [part(rows, 0, 4), part(rows, 4, 6)]
    close(ewc.fisher_diagonal(logprob, model, parts, where=where), found, rtol=1e-4, atol=1e-7)
    grad = jax.jit(jax.grad(logprob))
    grads = [grad(model, _row(rows, i)) for i in range(6)]
    each = [{"all": ewc.anchor, "factors": ewc.factors}.get(where, _kernels)(g) for g in grads]
    want = {p: np.mean([np.square(e[p]) for e in each], 0) for p in found}
    close(found, want, rtol=2e-3, atol=1e-6)
    # The square of the batch's gradient is something else.
    batch = {p: jnp.square(jnp.mean(jnp.stack([e[p] for e in each]), 0)) for p in found}
    assert ewc.total(batch) < 0.7 * ewc.total(found)


def _row(rows, i):
    return jax.tree.map(lambda a: a[i], rows)


def _kernels(model):
    return {p: layer.kernel[...] for p, _, _, layer in lora.layers(model, lora.LoRALinear)}


def test_padding_counts_for_nothing_and_a_mean_is_smaller_by_the_length_squared():
    model, rows = model_of(), rows_of(4)
    found = ewc.fisher_diagonal(text_logprob(), model, [rows])
    other = rows | {"tokens": jnp.where(rows["real"], rows["tokens"], 7)}
    close(ewc.fisher_diagonal(text_logprob(), model, [other]), found, rtol=1e-5)
    same = rows | {"real": jnp.ones_like(rows["real"])}
    total = ewc.fisher_diagonal(text_logprob(), model, [same])
    mean = ewc.fisher_diagonal(text_logprob("mean"), model, [same])
    close(mean, {p: f / (T - 1) ** 2 for p, f in total.items()}, rtol=1e-4, atol=1e-9)


def test_the_penalty_of_a_product_is_dense_ewc_at_the_merged_kernel():
    plain = model_of()
    model = wrapped_of(plain, busy=True)
    fisher = ewc.fisher_diagonal(text_logprob(), model, [rows_of(4)], where="wrapped")
    value = ewc.penalty(lora.delta(model), fisher)
    merged = lora.unwrap(lora.merge(model))
    dense = {f"{p}/kernel": f for p, f in fisher.items()}
    np.testing.assert_allclose(
        value, ewc.penalty(ewc.shift(merged, ewc.anchor(plain)), dense), rtol=1e-4
    )
    assert float(value) > 0
    want = sum(float((f * np.square(lora.delta(model)[p])).sum()) for p, f in fisher.items())
    np.testing.assert_allclose(value, want, rtol=1e-5)
    # F of wrapped kernels is that of the plain model's at B = 0.
    fresh = ewc.fisher_diagonal(text_logprob(), wrapped_of(plain), [rows_of(4)], where="wrapped")
    of_plain = ewc.fisher_diagonal(text_logprob(), plain, [rows_of(4)])
    close(
        {f"{p}/kernel": f for p, f in fresh.items()},
        {f"{p}/kernel": of_plain[f"{p}/kernel"] for p in fresh},
        rtol=1e-4,
        atol=1e-8,
    )


def test_a_fresh_update_has_no_penalty_and_no_gradient():
    model = wrapped_of(model_of())
    fisher = ewc.ones(_kernels(model))
    adapters, put = lora.split(model)
    value, grad = jax.jit(jax.value_and_grad(lambda a: ewc.penalty(lora.delta(put(a)), fisher)))(
        adapters
    )
    assert float(value) == 0
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(grad))


def test_f_of_one_is_the_squared_distance():
    start = ewc.anchor(model_of(0))
    moved = model_of(1)
    want = sum(np.square(np.asarray(a - start[p])).sum() for p, a in ewc.anchor(moved).items())
    np.testing.assert_allclose(
        ewc.penalty(ewc.shift(moved, start), ewc.ones(start)), want, rtol=1e-5
    )
    assert sum(p.startswith("tokens") for p in start) == 1, "a tied embedding counts once"
    np.testing.assert_allclose(
        ewc.total(ewc.ones(start, 2.0)), 2 * sum(a.size for a in start.values())
    )


def test_factors_apart_hold_what_leaves_the_product_as_it_is():
    model = wrapped_of(model_of(), busy=True)
    start = ewc.factors(model)
    for _, _, _, layer in lora.layers(model, lora.LoRALinear):
        layer.a[...], layer.b[...] = 2 * layer.a[...], layer.b[...] / 2
    apart = ewc.penalty(ewc.shift(model, start), ewc.ones(start))
    assert float(apart) > 0.1
    again = wrapped_of(model_of(), busy=True)
    close(lora.delta(model), lora.delta(again), rtol=1e-5)


def test_without_updates_is_the_base_model():
    plain = model_of()
    model, tokens = wrapped_of(plain, busy=True), rows_of(3)["tokens"]
    assert np.abs(model(tokens)[0] - plain(tokens)[0]).max() > 1e-3
    np.testing.assert_array_equal(ewc.without_updates(model)(tokens)[0], plain(tokens)[0])


def test_bad_input_is_one_clear_line():
    model = model_of()
    with pytest.raises(ValueError, match="where is 'some', allowed: one of all, wrapped, factors"):
        ewc.fisher_diagonal(text_logprob(), model, [], where="some")
    with pytest.raises(ValueError, match="model is 'GPT', allowed: one with wrapped layers"):
        ewc.fisher_diagonal(text_logprob(), model, [], where="wrapped")
    with pytest.raises(ValueError, match="fisher is 'x', allowed: one of kernel"):
        ewc.penalty({"kernel": jnp.ones(2)}, {"x": jnp.ones(2)})
    with pytest.raises(
        ValueError, match=r"fisher of kernel is \[3, 2\], allowed: the shape \(2, 3\)"
    ):
        ewc.penalty({"kernel": jnp.ones((2, 3))}, {"kernel": jnp.ones((3, 2))})
    with pytest.raises(ValueError, match="reduce is 'max', allowed: one of sum, mean"):
        ewc.log_likelihood(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), jnp.ones(2), reduce="max")
    assert ewc.fisher_diagonal(text_logprob(), model, []) == {}
