"""Joint and gated copies against the same sums in float64, and their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.nn import copy_attention
from jaxgen.nn.copy_attention import CopyHead, gated_copy, joint_copy, joint_logprob

B, T, G, M, V = 3, 4, 6, 5, 9
IDS = jnp.array([[1, 7, 7, 8, 0], [2, 2, 2, 5, 6], [8, 0, 1, 2, 3]])
MASKS = {
    "all": np.ones((B, M), bool),
    "some": np.array([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool),
    "none": np.zeros((B, M), bool),
}


def scores(seed=0, scale=3.0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = (B, T, G), (B, T, M), (B, T)
    return [jnp.asarray(scale * rng.normal(size=s), dtype) for s in shapes]


def by_hand(generate, copy, gate, mask, size=V):
    """The definitions, in float64, one item after the other."""
    g, c = np.exp(np.float64(generate)), np.exp(np.float64(copy)) * mask[:, None]
    if gate is not None:
        s = np.where(mask.any(-1)[:, None], 1 / (1 + np.exp(-np.float64(gate))), 0.0)[..., None]
        g = (1 - s) * g / g.sum(-1, keepdims=True)
        c = s * c / np.maximum(c.sum(-1, keepdims=True), 1e-300)
    z = g.sum(-1) + c.sum(-1)
    p = np.zeros((B, T, size))
    p[..., : g.shape[-1]] = g
    for b in range(B):
        for i in range(M):
            p[b, :, int(IDS[b, i])] += c[b, :, i]
    return p / z[..., None], c / z[..., None]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_both_are_what_they_are_defined_as(mask, gated):
    generate, copy, gate = scores()
    extra = (gate,) if gated else ()
    form = gated_copy if gated else joint_copy
    got = jax.jit(form, static_argnames="size")(
        generate, copy, *extra, IDS, jnp.asarray(mask), size=V
    )
    p, a = by_hand(generate, copy, gate if gated else None, mask)
    assert np.allclose(np.exp(got.logprobs), p, atol=1e-6)
    assert np.allclose(got.copied, a, atol=1e-6)
    assert np.allclose(np.exp(got.logprobs).sum(-1), 1, atol=1e-6)
    assert (np.isneginf(got.logprobs) == (p == 0)).all()
    targets = jnp.asarray(np.random.default_rng(1).integers(0, V, (B, T)))
    if gated:
        generate, copy = copy_attention.gated_scores(generate, copy, gate, jnp.asarray(mask))
    one, again = joint_logprob(generate, copy, IDS, jnp.asarray(mask), targets)
    want = np.take_along_axis(np.asarray(got.logprobs), np.asarray(targets)[..., None], -1)[..., 0]
    assert np.allclose(one, want, atol=1e-6)
    assert np.allclose(again, got.copied, atol=1e-6)


def test_far_apart_scores_stay_exact():
    """In probabilities these would be 0, and their gradients lost."""
    generate, copy, _ = scores(scale=100.0)
    got = joint_copy(generate, copy, IDS, jnp.asarray(MASKS["all"]), size=V)
    every = np.concatenate([generate, copy], -1).astype(np.float64)
    top = every.max(-1)
    log_z = top + np.log(np.exp(every - top[..., None]).sum(-1))
    assert np.allclose(got.logprobs[0, :, 8], copy[0, :, 3] - log_z[0], rtol=1e-6)
    assert np.allclose(got.logprobs[:, :, 4], generate[..., 4] - log_z, rtol=1e-6)
    assert np.isfinite(got.logprobs[0, :, 8]).all()


def test_one_tuple_that_alone_can_be_said_has_probability_1():
    nothing = jnp.full((1, 1, G), -jnp.inf)
    got = joint_copy(nothing, jnp.array([[[-7.0]]]), jnp.array([[3]]), jnp.ones((1, 1), bool))
    assert got.logprobs[0, 0].tolist() == [-jnp.inf] * 3 + [0.0] + [-jnp.inf] * 2
    assert got.copied.tolist() == [[[1.0]]]
    only = joint_copy(
        jnp.zeros((1, 1, G)),
        jnp.array([[[-7.0]]]),
        jnp.array([[3]]),
        jnp.ones((1, 1), bool),
        copied_only=jnp.ones(G, bool),
    )
    assert (only.logprobs == got.logprobs).all()


def test_two_tuples_with_one_value_add_up():
    one = joint_copy(jnp.zeros((1, 1, 2)), jnp.array([[[jnp.log(2.0)]]]), *_ids(1))
    two = joint_copy(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 2)), *_ids(1, 1))
    assert np.allclose(one.logprobs, two.logprobs, atol=1e-7)
    assert np.allclose(np.exp(two.logprobs), [[[0.25, 0.75]]], atol=1e-7)


def _ids(*ids):
    return jnp.array([ids]), jnp.ones((1, len(ids)), bool)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("gated", [False, True])
def test_gradients_are_finite(mask, gated):
    """With scores of -inf, masked scores of NaN, impossible targets, and nothing to copy."""
    generate, copy, gate = scores()
    generate = generate.at[0].set(-jnp.inf)
    copy = jnp.where(mask[:, None], copy, jnp.nan)
    targets = jnp.asarray(np.random.default_rng(1).integers(0, V, (B, T)))
    mask = jnp.asarray(mask)

    def loss(generate, copy, gate):
        if gated:
            generate, copy = copy_attention.gated_scores(generate, copy, gate, mask)
        logp, a = joint_logprob(generate, copy, IDS, mask, targets)
        whole = joint_copy(generate, copy, IDS, mask, size=V)
        finite = lambda x: jnp.where(jnp.isneginf(x), 0, x).sum()  # noqa: E731
        return finite(logp) + finite(whole.logprobs) + (a * a).sum() + whole.copied.sum()

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(generate, copy, gate)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(g).all() for g in grads)


def test_both_forms_have_one_gradient():
    generate, copy, _ = scores()
    mask, targets = (
        jnp.asarray(MASKS["some"]),
        jnp.asarray([[1, 7, 0, 2], [2, 5, 1, 0], [8, 0, 3, 3]]),
    )

    def whole(generate, copy):
        logp = joint_copy(generate, copy, IDS, mask, size=V).logprobs
        return jnp.take_along_axis(logp, targets[..., None], -1).sum()

    def short(generate, copy):
        return joint_logprob(generate, copy, IDS, mask, targets)[0].sum()

    assert jnp.isfinite(short(generate, copy))
    for a, b in zip(*(jax.grad(f, (0, 1))(generate, copy) for f in (whole, short)), strict=True):
        assert np.allclose(a, b, atol=1e-6)


def test_it_is_computed_in_the_dtype_of_its_input():
    with jax.enable_x64(True):
        generate, copy, gate = scores(dtype=jnp.float64)
        mask = jnp.asarray(MASKS["some"])
        got = gated_copy(generate, copy, gate, IDS, mask, size=V)
        p, a = by_hand(generate, copy, gate, MASKS["some"])
        assert got.logprobs.dtype == got.copied.dtype == jnp.float64
        assert np.allclose(np.exp(got.logprobs), p, atol=1e-12)
        assert np.allclose(got.copied, a, atol=1e-12)
        single = joint_copy(*scores()[:2], IDS, mask, size=V)
        assert single.logprobs.dtype == jnp.float32


def test_words_that_may_only_be_copied():
    generate, copy, _ = scores()
    mask, never = jnp.asarray(MASKS["some"]), jnp.arange(G) < 3
    got = joint_copy(generate, copy, IDS, mask, size=V, copied_only=never)
    want = joint_copy(jnp.where(never, -jnp.inf, generate), copy, IDS, mask, size=V)
    assert (got.logprobs == want.logprobs).all()
    targets = jnp.array([[0, 1, 2, 3]] * B)
    logp, _ = joint_logprob(generate, copy, IDS, mask, targets, copied_only=never)
    want = got.logprobs[..., :4][:, jnp.arange(T), jnp.arange(4)]
    assert np.allclose(logp, want, atol=1e-6)
    assert jnp.isneginf(logp).any()


def test_half_precision_in_is_float32_out():
    generate, copy, _ = scores(dtype=jnp.bfloat16)
    mask = jnp.asarray(MASKS["some"])
    got = joint_copy(generate, copy, IDS, mask, size=V)
    want = joint_copy(generate.astype(jnp.float32), copy.astype(jnp.float32), IDS, mask, size=V)
    assert got.logprobs.dtype == got.copied.dtype == jnp.float32
    assert np.allclose(got.logprobs, want.logprobs, atol=1e-6)


def test_bad_arguments_are_named():
    generate, copy, _ = scores()
    mask = jnp.asarray(MASKS["all"])
    with pytest.raises(ValueError, match=r"ids is \[7, 7, 8, 6\], allowed: 0 to 5"):
        joint_copy(generate, copy, IDS, mask)
    with pytest.raises(ValueError, match="size is 3, allowed: at least 6"):
        joint_copy(generate, copy, IDS, mask, size=3)


def make_head(coverage, gated=False):
    head = CopyHead(7, 8, coverage=coverage, gated=gated, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    memory, states = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((B, M, 7), (B, T, 8)))
    log_generate = jnp.asarray(rng.normal(size=(B, T)), jnp.float32)
    return head, head.keys(10 * memory), states, log_generate


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("coverage", [0, 6])
def test_scores_of_all_steps_are_those_of_single_steps(coverage, gated):
    head, keys, states, log_generate = make_head(coverage, gated)
    mask = jnp.asarray(MASKS["some"])
    whole = head(keys, states, log_generate, mask, head.empty(keys))
    state = head.empty(keys)
    for t in range(T):
        now = slice(t, t + 1)
        one = head(keys, states[:, now], log_generate[:, now], mask, state)
        state = one.state
        assert np.allclose(one.copy, whole.copy[:, now], atol=1e-5)
        assert gated == (one.gate is not None)
    assert np.allclose(state, whole.state, atol=1e-5)


def test_coverage_reads_the_copies_of_both_forms():
    """The state that a head keeps comes from the a of `joint_copy`, or `gated_copy`."""
    for gated in (False, True):
        head, keys, states, log_generate = make_head(6, gated)
        mask = jnp.asarray(MASKS["some"])
        found = head(keys, states[:, :1], log_generate[:, :1], mask, head.empty(keys))
        generate = log_generate[:, :1, None]  # one word, which has the whole sum
        extra = (found.gate,) if gated else ()
        form = gated_copy if gated else joint_copy
        a = form(generate, found.copy, *extra, jnp.zeros((B, M), int), mask).copied
        want = head._update(head.empty(keys), a[:, 0], states[:, 0])
        assert np.allclose(found.state, want, atol=1e-5)


def test_items_may_stand_in_any_order():
    head, keys, states, log_generate = make_head(6)
    order = jnp.array([3, 1, 4, 0, 2])
    mask = jnp.asarray(MASKS["some"])
    a = head(keys, states, log_generate, mask, head.empty(keys))
    b = head(keys[:, order], states, log_generate, mask[:, order], head.empty(keys))
    assert np.allclose(a.copy[:, :, order], b.copy, atol=1e-5)
    generate = scores()[0]
    p = joint_copy(generate, a.copy, IDS, mask, size=V)
    q = joint_copy(generate, b.copy, IDS[:, order], mask[:, order], size=V)
    assert np.allclose(p.logprobs, q.logprobs, atol=1e-5)
    assert np.allclose(p.copied[:, :, order], q.copied, atol=1e-5)
