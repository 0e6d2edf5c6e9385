"""Language models as readers of distributions: likelihoods, KL, both parts of the gradient, masks, the cap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.losses import soft_lm
from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.models import gpt2
from jaxgen.text.gumbel_softmax import unroll
from jaxgen.text.masking import eos_mask, shift_right

V, T, BEGIN, END = 9, 6, 1, 2


@pytest.fixture(scope="module")
def gpt():
    shape = {"width": 16, "depth": 2, "heads": 2, "max_positions": T + 1, "init_std": 0.4}
    return gpt2.GPT(gpt2.config(V, **shape), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def lm(gpt):
    return soft_lm.as_lm(gpt, BEGIN)


def bigram(table):
    """A language model that reads the token before alone; the first has a row of its own."""

    def logits(text):
        soft = text if text.ndim == 3 else jax.nn.one_hot(text, V)
        first = jnp.broadcast_to(table[-1], (len(soft), 1, V))
        return jnp.concatenate([first, soft[:, :-1] @ table[:-1]], 1)

    return logits


TOKENS = jnp.asarray([[3, 4, 5, 2, 0, 0], [6, 7, 8, 3, 4, 2]], jnp.int32)
MASK = eos_mask(TOKENS, END)


def soft(seed=0, sharp=2.0):
    return jax.nn.softmax(sharp * jax.random.normal(jax.random.key(seed), (2, T, V)))


@pytest.mark.parametrize("kind", ["gpt", "bigram"])
def test_of_one_hot_distributions_it_is_the_likelihood_of_the_tokens(lm, gpt, kind):
    model = lm if kind == "gpt" else bigram(jax.random.normal(jax.random.key(1), (V + 1, V)))
    one_hot = jax.nn.one_hot(TOKENS, V)
    logits = gpt(shift_right(TOKENS, BEGIN))[0] if kind == "gpt" else model(TOKENS)
    want, count = sum_cross_entropy(logits, TOKENS, MASK)
    for text in (TOKENS, one_hot):
        np.testing.assert_allclose(soft_lm.nll(model, text, MASK), want / count, rtol=1e-5)
        np.testing.assert_allclose(soft_lm.nll(model, text, MASK, normalise=False), want, rtol=1e-5)


def test_it_is_at_least_the_entropy_and_equal_where_the_model_predicts_the_text(lm):
    s = soft()
    entropy = jnp.where(MASK, jax.scipy.special.entr(s).sum(-1), 0).sum(-1) / MASK.sum(-1)
    nll, kl = soft_lm.nll(lm, s, MASK), soft_lm.kl(lm, s, MASK)
    np.testing.assert_allclose(nll - entropy, kl, rtol=1e-5)
    assert (kl > 0.1).all()
    np.testing.assert_allclose(soft_lm.kl(lambda _: jnp.log(s), s, MASK), 0, atol=1e-6)
    grad = jax.grad(lambda s: soft_lm.kl(lm, s, MASK).sum())(jax.nn.one_hot(TOKENS, V))
    assert jnp.isfinite(grad).all()


def test_the_gradient_is_that_of_a_target_and_that_of_an_input(lm):
    """As a target it is minus the log-probabilities; the rest comes by what the model reads."""
    s = soft()
    both, target = (
        jax.grad(
            lambda s, stop=stop: soft_lm.nll(
                lm, s, MASK, normalise=False, stop_input_gradient=stop
            ).sum()
        )(s)
        for stop in (False, True)
    )
    logp = jax.nn.log_softmax(lm(s))
    np.testing.assert_allclose(target, jnp.where(MASK[..., None], -logp, 0), rtol=1e-5, atol=1e-6)
    constant = jax.lax.stop_gradient(s)
    read = jax.grad(lambda s: -(constant * jax.nn.log_softmax(lm(s)) * MASK[..., None]).sum())(s)
    np.testing.assert_allclose(both - target, jnp.where(MASK[..., None], read, 0), atol=2e-5)
    # The last token that counts is read by nobody; all before it are.
    size = np.abs(np.asarray(both - target)).max(-1)
    last = np.asarray(MASK.sum(-1)) - 1
    assert all(size[i, last[i]] < 1e-5 and (size[i, : last[i]] > 1e-4).all() for i in range(2))


def test_a_bigram_model_has_its_gradient_in_closed_form():
    """d/ds_1 of -s_2 . log softmax(s_1 A) is A (p - s_2): a numeric case."""
    table = jax.random.normal(jax.random.key(1), (V + 1, V))
    s, mask = soft()[:1, :2], jnp.ones((1, 2), bool)

    def nll(s, stop):
        options = {"normalise": False, "stop_input_gradient": stop}
        return soft_lm.nll(bigram(table), s, mask, **options)[0]

    read = jax.grad(nll)(s, False) - jax.grad(nll)(s, True)
    p = jax.nn.softmax(s[0, 0] @ table[:-1])
    np.testing.assert_allclose(read[0, 0], table[:-1] @ (p - s[0, 1]), atol=1e-5)


def test_what_follows_the_end_changes_nothing(lm):
    s = jnp.where(MASK[..., None], soft(), 0.0)
    noise = jnp.where(MASK[..., None], s, soft(5))
    broken = jnp.where(MASK[..., None], s, jnp.nan)
    for f in (soft_lm.nll, soft_lm.kl):
        value, grad = jax.value_and_grad(lambda s, f=f: f(lm, s, MASK).sum())(s)
        for other in (noise, broken):
            got, got_grad = jax.value_and_grad(lambda s, f=f: f(lm, s, MASK).sum())(other)
            assert float(got) == pytest.approx(float(value), rel=1e-6)
            np.testing.assert_allclose(got_grad, grad, atol=1e-6)
            assert (np.asarray(got_grad)[~np.asarray(MASK)] == 0).all()


def test_repeating_a_text_leaves_the_loss_of_a_memoryless_model():
    row = jax.random.normal(jax.random.key(0), (V,))
    memoryless = lambda text: jnp.broadcast_to(row, (*text.shape[:2], V))  # noqa: E731
    s = soft()
    once = soft_lm.nll(memoryless, s, jnp.ones((2, T), bool))
    twice = soft_lm.nll(memoryless, jnp.concatenate([s, s], 1), jnp.ones((2, 2 * T), bool))
    np.testing.assert_allclose(once, twice, rtol=1e-6)
    total = soft_lm.nll(memoryless, s, jnp.ones((2, T), bool), normalise=False)
    np.testing.assert_allclose(total, T * once, rtol=1e-6)


def test_through_an_unroll_the_last_tokens_loss_reaches_the_first_draw(gpt, lm):
    """And the reader's weights, which no optimiser has, stay as they are where they are not asked for."""
    start = gpt.start(jnp.full((2, 1), BEGIN), max_tokens=T)
    last = jnp.broadcast_to(jnp.arange(T) == T - 1, (2, T))

    def loss(first):
        text, _ = unroll(start._replace(logits=first), jax.random.key(0), length=T, temperature=1.0)
        logp = jax.nn.log_softmax(lm(text))
        return -jnp.where(last, (jax.lax.stop_gradient(text) * logp).sum(-1), 0).sum()

    assert (np.abs(np.asarray(jax.grad(loss)(start.logits))).max(-1) > 1e-6).all()


def test_the_entropy_by_the_generators_own_log_probabilities(lm):
    """On hard draws: log q at the drawn tokens less log p at them, the estimate of He et al. (2020)."""
    q = jax.nn.log_softmax(jax.random.normal(jax.random.key(2), (2, T, V)))
    one_hot = jax.nn.one_hot(TOKENS, V)
    got = soft_lm.kl(lm, one_hot, MASK, log_q=q, normalise=False)
    logp = jax.nn.log_softmax(lm(TOKENS))
    at = jnp.take_along_axis(q - logp, TOKENS[..., None], -1)[..., 0]
    np.testing.assert_allclose(got, jnp.where(MASK, at, 0).sum(-1), rtol=1e-5)
    grad = jax.grad(lambda q: soft_lm.kl(lm, one_hot, MASK, log_q=q, normalise=False).sum())(q)
    np.testing.assert_allclose(grad, one_hot * MASK[..., None], atol=1e-6)


def test_the_adversarial_loss_is_real_less_generated_up_to_the_cap(gpt):
    s, other = soft(3), jnp.ones((2, T), bool)

    def loss(model, gamma, cap):
        lm = soft_lm.as_lm(model, BEGIN)
        return soft_lm.adversarial(lm, TOKENS, MASK, s, other, gamma=gamma, cap=cap)

    (value, aux), grad = jax.value_and_grad(loss, has_aux=True)(gpt, 0.5, 1e3)
    assert float(value) == pytest.approx(float(aux["real"] - 0.5 * aux["generated"]), rel=1e-6)
    plain = jax.grad(lambda m: loss(m, 0.0, None)[0])(gpt)
    capped = jax.grad(lambda m: loss(m, 0.5, 1e-3)[0])(gpt)
    for a, b in zip(*map(jax.tree.leaves, (plain, capped)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)  # rows beyond the cap are no longer pushed
    assert any(
        np.abs(a - c).max() > 1e-4
        for a, c in zip(*map(jax.tree.leaves, (plain, grad)), strict=True)
    )
    assert set(loss(gpt, 0.0, None)[1]) == {"real"}
    lm = soft_lm.as_lm(gpt, BEGIN)
    none = jax.grad(lambda s: soft_lm.adversarial(lm, TOKENS, MASK, s, other, gamma=1.0)[0])(s)
    assert (none == 0).all()
    traced = jax.jit(lambda g: loss(gpt, g, 1e3)[0])(0.5)
    assert float(traced) == pytest.approx(float(value), rel=1e-6)
    for gamma, cap, message in ((-1.0, None, "gamma is -1"), (1.0, 0.0, "cap is 0")):
        with pytest.raises(ValueError, match=message):
            loss(gpt, gamma, cap)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_float32_close_by(lm, dtype):
    s = soft().astype(dtype)
    for f in (soft_lm.nll, soft_lm.kl):
        got, want = f(lm, s, MASK), f(lm, s.astype(jnp.float32), MASK)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=2e-2)
