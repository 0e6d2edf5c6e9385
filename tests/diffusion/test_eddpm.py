import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.diffusion import eddpm, gaussian, schedule
from jaxgen.nn.conv import gaussian_logprob
from tests.diffusion.test_gaussian import exhaustive_elbo, optimal_denoiser
from tests.processes import RUNS_LONG

S = schedule.linear(12, 1e-3, 0.3)
W_ENC = jax.random.normal(jax.random.key(10), (5, 3))
W_DEC = jax.random.normal(jax.random.key(11), (3, 5))
W_EPS = 0.3 * jax.random.normal(jax.random.key(12), (3, 3))


def encode(x):
    return x @ W_ENC


def denoise(z, t):
    return jnp.tanh(z @ W_EPS + 0.1 * t[:, None])


def decode_logprob(x, z):
    return gaussian_logprob(x, z @ W_DEC, 0.5)


def batch(key, n=64):
    return jax.random.normal(key, (n, 5))


def at(t, x, noise_0, noise_t, sigma=0.1, **kwargs):
    ts = jnp.full(x.shape[0], t)
    return eddpm.terms(
        encode(x), sigma, denoise, decode_logprob, x, ts, noise_0, noise_t, S, **kwargs
    )


@pytest.mark.parametrize("weighting", eddpm.WEIGHTINGS)
def test_sampled_t_averages_to_the_exhaustive_sum(key, weighting):
    """The estimate over random t, against every t in turn; five standard errors."""
    n = 200_000
    x = jnp.tile(batch(key, 1), (n, 1))
    k = jax.random.split(key, 3)
    got, _ = eddpm.loss(encode, denoise, decode_logprob, x, k[0], S, weighting=weighting)
    sigma = float(jnp.sqrt(S.beta[1]))
    noise_0, noise_t = jax.random.normal(k[1], (2, n, 3))
    per_t = []
    for t in range(1, S.num_steps + 1):
        part = at(t, x, noise_0, noise_t, sigma)
        if weighting == "simple":
            part = part._replace(variance=jnp.zeros(n))
        sampled, fixed = eddpm.weigh(part, jnp.full(n, t), S, weighting)
        per_t.append(sampled + fixed)
    per_t = np.asarray(per_t)
    want = per_t.mean()
    if weighting == "elbo":
        want += 3 * float(gaussian.reverse_variance_kl(S))
    error = per_t.std() / np.sqrt(n)
    assert float(got) == pytest.approx(want, abs=5 * np.sqrt(2) * error)


def test_elbo_is_the_sum_over_t_written_out(key):
    """The `elbo` weighting of each t, averaged, is reconstruction + chain terms + KLs."""
    x = batch(key)
    noise_0, noise_t = jax.random.normal(key, (2, 64, 3))
    total = np.zeros(64)
    averaged = np.zeros(64)
    for t in range(1, S.num_steps + 1):
        part = at(t, x, noise_0, noise_t)
        total += np.asarray(part.chain)
        sampled, fixed = eddpm.weigh(part, jnp.full(64, t), S, "elbo")
        averaged += np.asarray(sampled + fixed) / S.num_steps
    want = total + np.asarray(part.reconstruction + part.prior + part.variance)
    assert np.allclose(averaged, want, rtol=1e-4)


@given(t=st.integers(1, 12), seed=st.integers(0, 99), alignment=st.sampled_from(eddpm.ALIGNMENTS))
@settings(max_examples=25, deadline=None)
def test_weightings_differ_by_lambda_t_in_every_term(t, seed, alignment):
    x = batch(jax.random.key(seed), 8)
    noise_0, noise_t = jax.random.normal(jax.random.key(seed + 1), (2, 8, 3))
    part = at(t, x, noise_0, noise_t, alignment=alignment)
    ts = jnp.full(8, t)
    for name in ("reconstruction", "chain", "prior", "variance"):
        only = eddpm.Terms(*[v if f == name else 0 * v for f, v in part._asdict().items()])
        elbo = sum(eddpm.weigh(only, ts, S, "elbo"))
        simple = sum(eddpm.weigh(only, ts, S, "simple"))
        # `elbo` sums over t (a factor T), `simple` is what one t contributes.
        assert np.allclose(elbo, simple * S.elbo_weight(ts) * S.num_steps, rtol=1e-4, atol=1e-6)


def test_alignment_at_t1_against_the_kl_of_two_gaussians(key):
    x = batch(key)
    noise_0, noise_t = jax.random.normal(key, (2, 64, 3))
    sigma = 0.2
    part = at(1, x, noise_0, noise_t, sigma)
    beta = float(S.beta[1])
    mu = np.asarray(encode(x), np.float64)
    z_1 = np.sqrt(1 - beta) * (mu + sigma * np.asarray(noise_0)) + np.sqrt(beta) * np.asarray(
        noise_t
    )
    eps = np.asarray(denoise(jnp.asarray(z_1, jnp.float32), jnp.ones(64)))
    mean = (z_1 - np.sqrt(beta) * eps) / np.sqrt(1 - beta)
    kl = 0.5 * (sigma**2 / beta - 1 + np.log(beta / sigma**2) + (mu - mean) ** 2 / beta)
    assert np.allclose(part.chain + part.variance, kl.sum(-1), rtol=2e-3)


@pytest.mark.parametrize("alignment", eddpm.ALIGNMENTS)
def test_simple_t1_term_becomes_the_noise_error(key, alignment):
    x = batch(key)
    noise_0, noise_t = jax.random.normal(key, (2, 64, 3))
    ts = jnp.ones(64, int)
    gaps = []
    for sigma in (1e-2, 1e-3, 1e-5):
        part = at(1, x, noise_0, noise_t, sigma, alignment=alignment)
        sampled = part.chain / S.elbo_weight(ts)
        gaps.append(float(jnp.abs(sampled / part.eps_error - 1).mean()))
    assert gaps[-1] < 2e-3
    assert alignment == "joint" or gaps[0] > gaps[1] > gaps[2]


def identity_elbo(x, key, s, data_variance, sigma, alignment):
    """-ELBO with E = identity and p(x|z_0) = N(z_0, sigma^2), every t visited."""
    denoise = optimal_denoiser(s, data_variance + sigma**2)
    n, steps = x.shape[0], s.num_steps

    def one(total, t_and_key):
        t, k = t_and_key
        noise_0, noise_t = jax.random.normal(k, (2, *x.shape))
        ts = jnp.full(n, t)
        part = eddpm.terms(
            x,
            sigma,
            denoise,
            lambda x, z: gaussian_logprob(x, z, sigma),
            x,
            ts,
            noise_0,
            noise_t,
            s,
            alignment=alignment,
        )
        sampled, fixed = eddpm.weigh(part, ts, s, "elbo")
        return total + (sampled + fixed).mean() / steps, None

    @functools.partial(jax.jit, compiler_options=RUNS_LONG)
    def over_all_t(keys):
        return jax.lax.scan(one, 0.0, (jnp.arange(1, steps + 1), keys))[0]

    total = over_all_t(jax.random.split(key, steps))
    return float(total + x.shape[-1] * gaussian.reverse_variance_kl(s))


@pytest.mark.parametrize("steps", [20, 300])
def test_identity_encoder_gives_the_elbo_of_ddpm(key, steps):
    """With p(x|z_0) = N(z_0, sigma_0^2), reconstruction cancels the entropy of q(z_0|x) in mean and
    what is left is DDPM's bound on z_0. Both sides have a standard error below 0.01."""
    s = schedule.VPSDE().discretise(steps)
    variance, sigma, n = 0.25, 0.2, 20_000
    x = jnp.sqrt(variance) * jax.random.normal(key, (n, 1))
    got = identity_elbo(x, jax.random.key(5), s, variance, sigma, "joint")
    z_0 = x + sigma * jax.random.normal(jax.random.key(6), x.shape)
    denoise = optimal_denoiser(s, variance + sigma**2)
    want = exhaustive_elbo(denoise, z_0, jax.random.key(7), s)
    assert got == pytest.approx(want, abs=0.05)


def test_elbo_gap_closes_with_the_chain_and_kl_alignment_costs_more(key):
    """On Gaussian data the exact bound tends to the entropy of z_0. The paper's alignment, which
    draws z_0 afresh, stays above it by sigma_0^2 / beta_1 times the share of z_0 that mu_theta
    keeps; as sigma_0 -> 0 the two agree."""
    variance, sigma, n = 0.25, 0.2, 20_000
    x = jnp.sqrt(variance) * jax.random.normal(key, (n, 1))
    entropy = 0.5 * np.log(2 * np.pi * np.e * (variance + sigma**2))
    gap = [
        identity_elbo(x, key, schedule.VPSDE().discretise(t), variance, sigma, "joint") - entropy
        for t in (10, 2000)
    ]
    assert gap[0] > 0.05
    assert abs(gap[1]) < 0.03
    s = schedule.VPSDE().discretise(20)
    a, b = float(s.alpha_bar[1]), float(s.beta[1])
    for small in (np.sqrt(b), 0.01):
        exact = identity_elbo(x, key, s, variance, float(small), "joint")
        paper = identity_elbo(x, key, s, variance, float(small), "kl")
        v = variance + small**2
        assert paper - exact == pytest.approx(small**2 / b * a * v / (a * v + b), abs=0.02)


def loss_of(encoder_weights, x, key, **kwargs):
    value, aux = eddpm.loss(
        lambda x: x @ encoder_weights, denoise, decode_logprob, x, key, S, **kwargs
    )
    return value, aux


def test_encoder_gets_gradient_from_the_diffusion_term_alone(key):
    """No decoder, no prior: what moves the encoder is the chain. With the gradient switched off (a
    two-stage model) nothing does."""
    x = batch(key)
    noise_0, noise_t = jax.random.normal(key, (2, 64, 3))
    t = jnp.arange(64) % 12 + 1

    def chain(w, scale):
        part = eddpm.terms(
            x @ w, 0.1, denoise, decode_logprob, x, t, noise_0, noise_t, S, encoder_grad=scale
        )
        return part.chain.mean()

    full = jax.grad(chain)(W_ENC, 1.0)
    assert jnp.abs(full).max() > 1e-2
    assert jnp.allclose(jax.grad(chain)(W_ENC, 0.25), 0.25 * full, rtol=1e-4, atol=1e-6)
    assert jnp.all(jax.grad(chain)(W_ENC, 0.0) == 0)


def test_every_term_reaches_the_encoder(key):
    x = batch(key)
    noise_0, noise_t = jax.random.normal(key, (2, 64, 3))
    for name in ("reconstruction", "chain", "prior"):

        def one(w, name=name):
            part = eddpm.terms(
                x @ w, 0.1, denoise, decode_logprob, x, jnp.ones(64, int), noise_0, noise_t, S
            )
            return getattr(part, name).mean()

        assert jnp.abs(jax.grad(one)(W_ENC)).max() > 1e-6, name


def test_gradient_against_finite_differences(key):
    with jax.enable_x64(True):
        s = schedule.linear(12, 1e-3, 0.3)
        x = jax.random.normal(key, (4, 5), jnp.float64)
        w = jnp.asarray(W_ENC, jnp.float64)

        def value(w):
            return eddpm.loss(lambda x: x @ w, denoise, decode_logprob, x, key, s)[0]

        g = jax.grad(value)(w)
        direction = jax.random.normal(jax.random.key(9), w.shape, jnp.float64)
        h = 1e-5
        numeric = (value(w + h * direction) - value(w - h * direction)) / (2 * h)
        assert float((g * direction).sum()) == pytest.approx(float(numeric), rel=1e-6)


def test_importance_sampling_of_t_is_unbiased(key):
    n = 200_000
    x = jnp.tile(batch(key, 1), (n, 1))
    probs = jnp.arange(1, 13) / 78.0
    for weighting in eddpm.WEIGHTINGS:
        plain, _ = loss_of(W_ENC, x, key, weighting=weighting)
        skewed, aux = loss_of(W_ENC, x, jax.random.key(7), weighting=weighting, t_probs=probs)
        assert skewed == pytest.approx(float(plain), rel=0.02)
        counts = np.bincount(np.asarray(aux["t"]), minlength=13)[1:]
        assert np.allclose(counts / n, probs, atol=5 * 0.5 / np.sqrt(n))


def test_several_t_per_example_agree_in_mean_and_have_less_noise(key):
    x = batch(key, 2_000)
    keys = jax.random.split(key, 100)
    one = jax.vmap(lambda k: loss_of(W_ENC, x, k)[0])(keys)
    four = jax.vmap(lambda k: loss_of(W_ENC, x, k, num_t=4)[0])(keys)
    error = float(jnp.sqrt((one.var() + four.var()) / 100))
    assert abs(float(one.mean() - four.mean())) < 5 * error
    # A quarter of the variance in t, for a ratio of two sample variances of 100 draws.
    assert four.var() < 0.6 * one.var()


def test_several_t_of_an_example_are_as_each_alone(key):
    """One row for each t, side by side; what does not depend on t is computed once an example."""
    x, decoded = batch(key), []
    noise_0, noise_t = jax.random.normal(key, (64, 3)), jax.random.normal(key, (192, 3))
    t = jnp.arange(192) % 12 + 1

    def counted(x, z):
        decoded.append(z.shape)
        return decode_logprob(x, z)

    def at(t, noise_t):
        return eddpm.terms(encode(x), 0.1, denoise, counted, x, t, noise_0, noise_t, S)

    together = at(t, noise_t)
    assert decoded == [(64, 3)]
    for k in range(3):
        alone = at(t[k::3], noise_t[k::3])
        for name, value in alone._asdict().items():
            assert np.allclose(getattr(together, name)[k::3], value, rtol=1e-5), name


def test_draws_of_the_loss_lie_on_one_axis_and_are_those_of_its_key(key):
    x, rows = batch(key), []

    def counted(z, t):
        rows.append((z.shape, t.shape))
        return denoise(z, t)

    value, aux = eddpm.loss(encode, counted, decode_logprob, x, key, S, num_t=4, sigma_0=0.1)
    assert rows == [((256, 3), (256,))]
    key_t, key_0, key_eps, _ = jax.random.split(key, 4)
    t = jax.random.randint(key_t, (4, 64), 1, 13, jnp.int32)
    noise_0, noise_t = jax.random.normal(key_0, (64, 3)), jax.random.normal(key_eps, (4, 64, 3))
    part = jax.vmap(
        lambda t, noise: eddpm.terms(
            encode(x), 0.1, denoise, decode_logprob, x, t, noise_0, noise, S
        )
    )(t, noise_t)
    part = part._replace(variance=jnp.zeros_like(part.variance))
    sampled, fixed = eddpm.weigh(part, t, S, "simple")
    assert value == pytest.approx(float((sampled + fixed).mean()), rel=1e-6)
    assert jnp.all(t == aux["t"].reshape(64, 4).T)
    assert np.allclose(aux["loss_at_t"].reshape(64, 4).T, sampled, rtol=1e-5)


def test_predicted_sigma_enters_every_term_that_holds_it(key):
    x = batch(key)

    def value(log_sigma):
        sigma = jnp.exp(log_sigma) * jnp.ones((64, 3))
        return eddpm.loss(
            lambda x: (encode(x), sigma), denoise, decode_logprob, x, key, S, weighting="elbo"
        )[0]

    fixed = eddpm.loss(encode, denoise, decode_logprob, x, key, S, weighting="elbo", sigma_0=0.3)[0]
    assert value(jnp.log(0.3)) == pytest.approx(float(fixed), rel=1e-5)
    assert jax.grad(value)(jnp.log(1e-3)) < 0  # too small a sigma pays the entropy term


def test_decoder_noise_reaches_the_decoder_only(key):
    x = batch(key, 20_000)
    _, quiet = loss_of(W_ENC, x, key)
    _, noisy = loss_of(W_ENC, x, key, decoder_noise=1.0)
    added = float((W_DEC**2).sum()) / (2 * 0.5**2)  # E||W noise||^2 / (2 std^2)
    rise = float(noisy["reconstruction"] - quiet["reconstruction"])
    assert rise == pytest.approx(added, rel=0.1)
    assert noisy["eps_mse"] == quiet["eps_mse"]


def test_t_covers_1_to_T_evenly(key):
    n = 120_000
    _, aux = loss_of(W_ENC, jnp.tile(batch(key, 1), (n, 1)), key)
    counts = np.bincount(np.asarray(aux["t"]), minlength=13)
    assert counts[0] == 0
    assert len(counts) == 13
    expected = n / 12
    assert np.abs(counts[1:] - expected).max() < 5 * np.sqrt(expected)


def test_transforms_and_keys(key):
    x = batch(key)
    jitted = jax.jit(lambda k: loss_of(W_ENC, x, k)[0])
    assert jitted(key) == pytest.approx(float(loss_of(W_ENC, x, key)[0]), rel=1e-5)
    keys = jax.random.split(key, 3)
    many = jax.vmap(jitted)(keys)
    assert np.allclose(many, [jitted(k) for k in keys], rtol=1e-5)
    assert len(np.unique(many)) == 3


def test_images_and_sequences_of_latents(key):
    x = jax.random.normal(key, (6, 4, 4, 2))
    value, aux = eddpm.loss(
        lambda x: x,
        lambda z, t: 0.5 * z,
        lambda x, z: gaussian_logprob(x, z, 0.1),
        x,
        key,
        S,
    )
    assert jnp.isfinite(value)
    assert aux["t"].shape == (6,)


@pytest.mark.parametrize(
    "kwargs", [{"weighting": "vlb"}, {"alignment": "none"}, {"sigma_0": 0.0}, {"sigma_0": -1.0}]
)
def test_bad_arguments_name_the_field(key, kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        loss_of(W_ENC, batch(key), key, **kwargs)


def test_the_objective_is_short_enough_to_read():
    assert len(inspect.getsource(eddpm).splitlines()) < 250


@pytest.mark.parametrize("alignment", eddpm.ALIGNMENTS)
@pytest.mark.parametrize("weighting", eddpm.WEIGHTINGS)
@pytest.mark.parametrize(
    ("kind", "steps", "options"),
    [("constant", 1000, {"beta": 0.1}), ("constant", 2000, {"beta": 0.05}), ("linear", 12000, {})],
)
def test_long_chains_have_finite_gradients_at_every_t(
    key, kind, steps, options, weighting, alignment
):
    """Their last alpha_bar is 0 in float32. Where it is not yet, a shorter chain has the same terms."""
    chain = schedule.make(kind, steps, **options)
    assert chain.alpha_bar[-1] == 0
    x, ts = batch(key, 8), jnp.asarray([1, 2, 100, 500, 900, steps - 1, steps, steps])
    noise_0, noise_t = jax.random.normal(key, (2, 8, 3))

    def terms(w, chain, t):
        part = eddpm.terms(
            x @ w, 0.1, denoise, decode_logprob, x, t, noise_0, noise_t, chain, alignment=alignment
        )
        return sum(eddpm.weigh(part, t, chain, weighting)), part

    value, pull, part = jax.vjp(lambda w: terms(w, chain, ts), W_ENC, has_aux=True)
    (grad,) = pull(jnp.ones(8))
    assert jnp.isfinite(value).all()
    assert jnp.isfinite(grad).all()
    assert jnp.abs(grad).max() > 0
    short = schedule.from_betas(chain.beta[1:901])
    same = terms(W_ENC, short, jnp.minimum(ts, 900))[1]
    np.testing.assert_allclose(part.chain[:5], same.chain[:5], rtol=1e-4)


def test_options_may_be_traced_latents_may_be_none_and_nan_is_refused(key):
    x = batch(key, 8)

    def run(sigma_0, noise, weight, grad=0.5):
        return loss_of(
            W_ENC,
            x,
            key,
            sigma_0=sigma_0,
            decoder_noise=noise,
            diffusion_weight=weight,
            encoder_grad=grad,
        )[0]

    assert jax.jit(run)(0.2, 0.1, 0.7, 0.5) == pytest.approx(float(run(0.2, 0.1, 0.7)), rel=1e-5)
    for bad in (float("nan"), -0.1, float("inf")):
        with pytest.raises(ValueError, match="sigma_0 is"):
            run(bad, 0.1, 1.0)
        with pytest.raises(ValueError, match="decoder_noise is"):
            run(0.1, bad, 1.0)
    empty, aux = eddpm.loss(encode, denoise, decode_logprob, x[:0], key, S)
    assert empty == 0
    assert all(jnp.isfinite(v).all() for v in aux.values())
    assert gaussian.loss(denoise, jnp.zeros((0, 3)), key, S)[0] == 0
