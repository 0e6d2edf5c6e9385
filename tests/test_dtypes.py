"""Public functions in half precision, and with 64-bit types switched on.

Each returns what it returns in float32: states in the dtype of their input, losses in float32 or wider,
integers as int32. The tolerances are a few roundings of the input's dtype, relative to the largest value.
"""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.diffusion import eddpm, gaussian, samplers, schedule, timestep_sampling
from jaxgen.latent_ode import ascent, baselines, energy, priors, sample
from jaxgen.losses import eisl, fused_linear, vae
from jaxgen.losses.bag_of_ngrams import bag_of_ngrams_loss
from jaxgen.losses.cross_entropy import mean_cross_entropy, sum_cross_entropy
from jaxgen.losses.policy_gradient import policy_gradient_loss
from jaxgen.metrics.sentence_bleu import sentence_bleu
from jaxgen.models import bert, gpt2, t5
from jaxgen.models.text_decoders import LatentGPT
from jaxgen.moe import gates, init_experts, loss_free, remoe
from jaxgen.moe import layer as moe_layer
from jaxgen.nn import batch_renorm, conv, layers, mlp, unet
from jaxgen.numerics import wide
from jaxgen.peft import lora
from jaxgen.text import decoding
from jaxgen.text.gumbel_softmax import gumbel_softmax

CASES = {}
TOLERANCE = {"bfloat16": 4e-2, "float16": 5e-3, "float32": 1e-4, "float64": 1e-4}


def case(out="own", scale=1.0, drawn=False):
    """Registers f(a), where a(shape) are numbers of a dtype, exact in all; `scale` times the tolerance.

    `drawn`: with noise, which is another one in float64.
    """

    def add(f):
        CASES[f.__name__] = f, out, scale, drawn
        return f

    return add


class Numbers:
    def __init__(self, dtype):
        self.dtype, self.rng = jnp.dtype(dtype), np.random.default_rng(0)

    def __call__(self, *shape):
        """Multiples of 1/8 in about [-2, 2]: exact in every dtype."""
        return jnp.asarray(np.rint(self.rng.normal(size=shape) * 8).clip(-16, 16) / 8, self.dtype)

    def ids(self, high, *shape):
        return jnp.asarray(self.rng.integers(0, high, shape), jnp.int32)


KEY = functools.partial(jax.random.key, 0)
MASK = np.arange(5) < np.array([[4], [5], [2]])


@case("wide")
def eisl_loss(a):
    x, y = a(3, 5, 7), a.ids(7, 3, 5)
    return eisl.eisl_loss(x, y, ngrams=(1, 2, 0), logits_mask=jnp.asarray(MASK), temperature=0.5)


@case("wide")
def mixed_loss(a):
    x, y = a(3, 5, 7), a.ids(7, 3, 5)
    return eisl.mixed_loss(x, y, ngrams=(1, 2), label_smoothing=0.1, mask=jnp.asarray(MASK))


@case("wide")
def bag_of_ngrams(a):
    return bag_of_ngrams_loss(a(3, 5, 7), a.ids(7, 3, 5), targets_mask=jnp.asarray(MASK))


@case("wide")
def cross_entropy(a):
    x, y = a(3, 5, 7), a.ids(7, 3, 5)
    options = {"mask": jnp.asarray(MASK), "label_smoothing": 0.1}
    return sum_cross_entropy(x, y, **options), mean_cross_entropy(x, y, **options)


@case("wide")
def policy_gradient(a):
    x, y = a(3, 5, 7), a.ids(7, 3, 5)
    rewards = sentence_bleu(y, y[::-1], jnp.asarray(MASK), jnp.asarray(MASK))
    return policy_gradient_loss(x, y, rewards, mask=jnp.asarray(MASK))


@case("wide", scale=3)
def fused_loss(a):
    h, e, y = a(4, 5, 3), a(7, 3), a.ids(7, 4, 5)

    def f(h, e):
        return fused_linear.fused_loss(h, e, y, lambda c, _: eisl.eisl_from_pairs(c), budget=300)

    grads = jax.grad(f, (0, 1))(h, e)
    assert [g.dtype for g in grads] == [h.dtype, e.dtype]
    return f(h, e), [g.astype(wide(h)) for g in grads]


def denoise(z, t):
    return 0.5 * z + (0.1 * t).astype(z.dtype)[:, None]


@case()
def forward_and_reverse(a):
    chain, z, eps, t = schedule.linear(20, 0.01, 0.3), a(3, 2), a(3, 2), jnp.array([1, 7, 20])
    z_t = gaussian.q_sample(z, t, eps, chain)
    back = gaussian.predict_z0(z_t, t, eps, chain), gaussian.p_mean(z_t, t, eps, chain)
    return z_t, back, gaussian.q_posterior(z, z_t, t, chain)


@case("wide", scale=3, drawn=True)
def gaussian_losses(a):
    chain, z = schedule.cosine(20), a(6, 2)
    plain = [gaussian.loss(denoise, z, KEY(), chain, weighting=w)[0] for w in ("simple", "elbo")]
    return plain, gaussian.prior_kl(z, 0.5, chain)


def log_normal(x, z):
    return -((x - z) ** 2).astype(wide(z)).sum(-1)


@case("wide", scale=3, drawn=True)
def eddpm_losses(a):
    chain, x = schedule.linear(20, 0.01, 0.3), a(6, 2)
    out = []
    for weighting in eddpm.WEIGHTINGS:
        value, aux = eddpm.loss(
            lambda x: x,
            denoise,
            log_normal,
            x,
            KEY(),
            chain,
            weighting=weighting,
            decoder_noise=0.1,
        )
        assert aux["t"].dtype == jnp.int32
        out.append(value)
    return out


@case(scale=3, drawn=True)
def discrete_samplers(a):
    chain, z = schedule.linear(20, 0.01, 0.3), a(3, 2)
    ddim = functools.partial(samplers.ddim, denoise, z, chain, num_steps=5)
    encoded = samplers.ddim_encode(denoise, z, chain, num_steps=5, refinements=1)
    free = [samplers.ancestral(denoise, z, KEY(), chain, variance=v) for v in ("beta", "posterior")]
    return free, ddim(), ddim(eta=0.5, key=KEY(), trajectory=True), encoded


@case(scale=4)  # 3 would do where XLA fuses float16 chains in float32, as its newer emitters do
def flow_ode(a):
    z, chain = a(3, 2), schedule.linear(20, 0.01, 0.3)
    forward = samplers.flow_ode(denoise, z, schedule.VPSDE(), forward=True, rtol=1e-3)[0]
    return samplers.flow_ode(denoise, z, chain, t_min=2.0, rtol=1e-3)[0], forward


@case("wide")
def choice_of_steps(a):
    state = timestep_sampling.update(timestep_sampling.init(4), a.ids(20, 5) + 1, abs(a(5)), 20)
    return (
        state,
        timestep_sampling.probabilities(state, 20),
        gates.temperature_at(3, decay_steps=10),
    )


def bowl(z):
    return 0.5 * jnp.sum((z - 1) ** 2)


@case(scale=2)
def latent_ode(a):
    z = a(3, 2)
    part = energy.regression(lambda z: z.sum(), sigma=1.0)
    both = energy.compose(
        [(part, 1.0, 0.5), (energy.classifier(lambda z: z, ["a", "b"]), "b", 1.0)]
    )
    end, stats = sample.solve(both, z, points=2)
    assert stats.nfe.dtype == jnp.int32
    fixed = sample.solve(bowl, z, steps=10, prior_score=lambda z, t: -z, batched=True, t_start=0.5)[
        0
    ]
    kvaerno = sample.solve(bowl, z, solver=diffrax.Kvaerno3())[0]
    return end, stats.trajectory, fixed, kvaerno


@case(scale=2, drawn=True)
def steps_in_latent_space(a):
    z = a(3, 2)
    up = lambda z: -bowl(z)  # noqa: E731
    return (
        ascent.gradient_ascent(up, z, steps=5, rate=0.1, penalty=0.1),
        ascent.ascent_ode(up, z, time=1.0)[0],
        baselines.sgld(bowl, z, KEY(), steps=5, rate=0.1),
        baselines.predictor_corrector(bowl, z, KEY(), steps=10, corrections=1),
        baselines.linear_shift(z, a(2), 0.5),
    )


@case(scale=3)
def gaussian_prior(a):
    z = a(20, 3)
    fit = priors.Gaussian.fit(z)
    assert fit.sample(KEY(), 4).dtype == fit.log_prob(z).dtype == wide(z)
    score = priors.diffusion_score(denoise, schedule.linear(20, 0.01, 0.3), schedule.VPSDE())
    return fit.whiten(z), fit.unwhiten(z), score(z[0], jnp.asarray(0.5, z.dtype))


def test_gan_in_every_dtype():
    """Its weights are float32, and so are its draws."""
    for dtype, on in (("bfloat16", False), ("float32", True)):
        with jax.enable_x64(on):
            net, losses = priors.fit_gan(
                Numbers(dtype)(20, 3), KEY(), steps=3, batch=4, width=4, depth=1
            )
            assert priors.generate(net, KEY(), 4).dtype == jnp.float32
            assert np.isfinite(losses["generator"]).all()


@case(drawn=True)
def weights_of_gates(a):
    x = a(6, 4)
    dts = functools.partial(gates.dts, x, temperature=0.7)
    routings = [
        gates.top_k(x, 2, normalise=True),
        gates.gshard(x, key=KEY()),
        gates.expert_choice(x, capacity=2),
        dts(threshold=0.1, key=KEY()),
        dts(hard=True),
        dts(threshold=0.1, budget=2, renormalise=True, noise_free_weights=True),
        loss_free.loss_free(x, bias=jnp.zeros(4), k=2),
        remoe.relu(x, budget=3),
    ]
    for r in [*routings, gates.hash_gate(a.ids(9, 6), 4)]:
        assert r.balance.dtype == r.z.dtype == wide(r.weights)
        assert r.overflow.dtype == r.counts(4).dtype == r.expert_ids.dtype == jnp.int32
    return [(r.weights, r.expert_ids) for r in routings]


@case(scale=3)
def mixtures(a):
    x, route = a(8, 4), moe_layer.MoEContext(gate=lambda x, key: gates.top_k(x, 2))
    mesh = mesh_lib.make_mesh({"expert": 2}, jax.devices()[:2])
    spread = moe_layer.MoEContext(gate=route.gate, mesh=mesh)
    out = []
    for factor, how in ((0.0, route), (0.5, route), (0.0, spread)):
        net = moe_layer.MoE(4, 4, 8, capacity_factor=factor, rngs=nnx.Rngs(0))
        assert net.experts.up[...].dtype == jnp.float32
        y, load = net(x, how, real=jnp.arange(8) < 7)
        assert load.counts.dtype == load.dropped.dtype == load.overflow.dtype == jnp.int32
        out.append(y)
    return out, init_experts.init_experts(x, 3, 0.5, KEY())


def steps_by_table(table):
    """The next token's logits are a row of the table."""
    return decoding.Start(lambda c, t: (table[t], c + 1), jnp.zeros((), jnp.int32), table[:3])


@case(drawn=True)
def decoding_by_a_table(a):
    start = steps_by_table(a(9, 9))
    found = [
        decoding.greedy(start, max_tokens=4, eos=1),
        decoding.sample(start, KEY(), max_tokens=4, eos=1, top_k=5, top_p=0.9, temperature=0.5),
        decoding.beam(start, beams=2, max_tokens=4, eos=1, length_penalty=0.8),
        decoding.greedy(start, max_tokens=0),
    ]
    assert all(f.scores.dtype == wide(start.logits) for f in found)
    kept = decoding.filter_logits(start.logits, top_k=4, top_p=0.8)
    return [(f.tokens, f.lengths) for f in found], jnp.exp(kept)


@case(drawn=True)
def gumbel_draws(a):
    draw = functools.partial(gumbel_softmax, a(4, 5), KEY(), temperature=0.5)
    return draw(), draw(hard=True)


@case(scale=3)
def networks_on_vectors(a):
    z, t = a(3, 4), jnp.array([1, 4, 9])
    wrapped = lora.wrap(mlp.MLP(4, 4, width=8, depth=1, rngs=nnx.Rngs(0)), 2, 4.0, "layers", KEY())
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(wrapped))
    latent, moments = batch_renorm.standardise(z, batch_renorm.init(4))
    assert moments.mean.dtype == jnp.float32
    skip = mlp.MLPSkipNet(4, width=8, depth=2, time_dim=8, rngs=nnx.Rngs(0))
    return lora.merge(wrapped)(z), wrapped(z), latent, skip(z, t)


@case(scale=3)
def networks_on_images(a):
    x, z = a(2, 8, 8, 1), a(2, 3)
    net = unet.UNet((8, 8, 1), width=8, cond_dim=3, rngs=nnx.Rngs(0))
    enc = conv.Encoder((8, 8, 1), 3, width=8, rngs=nnx.Rngs(0))
    return (
        net(x, jnp.array([1, 5]), z),
        enc(x),
        conv.Decoder(3, (8, 8, 1), width=8, rngs=nnx.Rngs(0))(z),
    )


@case("wide", scale=2, drawn=True)
def likelihoods(a):
    x, y, z = a(3, 8), a(3, 8), a(3, 2)
    both = conv.gaussian_logprob(x, y, 0.5), conv.bernoulli_logprob(abs(x) / 2, y)
    return both, vae.loss(lambda z: (z, 0.5 * z), log_normal, z, KEY(), beta=0.5, free_bits=0.1)[0]


@case()
def pooled(a):
    return bert.mean_pool(a(3, 5, 4), jnp.asarray(MASK)), layers.dropout(a(3, 8), 0.5, KEY())


@pytest.mark.parametrize(
    ("dtype", "x64"),
    [("bfloat16", False), ("float16", False), ("float32", True), ("float64", True)],
)
@pytest.mark.parametrize("name", CASES)
def test_dtype_in_dtype_out(name, dtype, x64):
    f, out, scale, drawn = CASES[name]
    with jax.enable_x64(x64):
        a = Numbers(dtype)
        got = jax.tree.leaves(jax.jit(lambda: f(a))())
        want_dtype = a.dtype if out == "own" else wide(a.dtype)
        kinds = {v.dtype for v in got}
    assert kinds <= {want_dtype, jnp.dtype("int32"), *([jnp.dtype("float32")] * (out == "wide"))}
    if drawn and dtype == "float64":
        return
    for found, want in zip(got, reference(name), strict=True):
        value = np.asarray(found, np.float64)
        if np.issubdtype(want.dtype, np.integer):
            np.testing.assert_array_equal(value, want)
        else:
            limit = scale * TOLERANCE[dtype] * max(1.0, abs(want).max(initial=0.0))
            np.testing.assert_allclose(value, want, rtol=0, atol=limit)


@functools.cache
def reference(name):
    """In float32, and without 64-bit types."""
    a = Numbers("float32")
    return [np.asarray(v) for v in jax.tree.leaves(jax.jit(lambda: CASES[name][0](a))())]


def language_models():
    gpt = gpt2.GPT(
        gpt2.config(11, width=8, depth=2, heads=2, max_positions=12, windows=(2, 0)),
        rngs=nnx.Rngs(0),
    )
    seq2seq = t5.T5(t5.config(11, width=8, depth=1, heads=2), rngs=nnx.Rngs(0))
    tokens = jnp.asarray([[3, 4, 5], [0, 6, 7]], jnp.int32)
    latent = LatentGPT(gpt.config, 3, length=4, begin=1, end=1, rngs=nnx.Rngs(0))
    starts = [
        gpt.start(tokens, max_tokens=4, mask=tokens > 0),
        seq2seq.start(tokens, max_tokens=4, mask=tokens > 0),
        latent.start(jnp.ones((2, 3), jnp.float32)),
    ]
    # Of a model, decoders know its step and gather the rows of its cache: one goes through all of them.
    return [
        *(decoding.greedy(start, max_tokens=4, eos=1) for start in starts),
        decoding.beam(starts[0], beams=2, max_tokens=4, eos=1),
        decoding.sample(starts[0], KEY(), max_tokens=4, eos=1),
    ]


def test_language_models_decode_alike_with_64_bits():
    plain = jax.jit(language_models)()
    with jax.enable_x64(True):
        other = jax.jit(language_models)()
        assert {v.dtype for v in jax.tree.leaves(other)} == {
            jnp.dtype("int32"),
            jnp.dtype("float32"),
        }
    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4)
