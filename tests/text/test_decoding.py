"""Decoding: token-identical with transformers, and exact on a model that can be enumerated."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.models import gpt2, hf, t5
from jaxgen.text import decoding

EOS, PAD = 1, 0


def prompts(vocab, rows=64, length=9, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, vocab, (rows, length))
    mask = np.arange(length) >= rng.integers(0, length // 2, (rows, 1))  # padded on the left
    return np.where(mask, tokens, PAD), mask


@pytest.fixture(params=["gpt2", "gpt_neo", "t5"], scope="module")
def pair(request, tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5 if request.param == "gpt_neo" else 1)  # some rows have to end early
    ids = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": 2}
    if request.param == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=61,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.4,
            **ids,
        )
        model = transformers.GPT2LMHeadModel(config)
    elif request.param == "gpt_neo":
        config = transformers.GPTNeoConfig(
            vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=64,
            attention_types=[[["global", "local"], 1]], window_size=6, initializer_range=0.3, **ids
        )  # fmt: skip
        model = transformers.GPTNeoForCausalLM(config)
    else:
        config = transformers.T5Config(
            vocab_size=61, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
            decoder_start_token_id=0, initializer_factor=2.0, eos_token_id=EOS, pad_token_id=PAD,
        )  # fmt: skip
        model = transformers.T5ForConditionalGeneration(config)
    folder = tmp_path_factory.mktemp(request.param)
    model.eval().save_pretrained(folder)
    return model, hf.load(folder)


def theirs(model, tokens, mask, n, **options):
    import torch

    ids, m = torch.tensor(tokens), torch.tensor(mask.astype(np.int64))
    with torch.no_grad():
        out = model.generate(ids, attention_mask=m, max_new_tokens=n, do_sample=False, **options)
    begin = 1 if model.config.is_encoder_decoder else tokens.shape[1]
    out = out[:, begin:].numpy()
    after = (
        np.cumsum(out == EOS, 1) - (out == EOS) > 0
    )  # it fills with PAD or, from beams, with EOS
    out = np.where(after, PAD, out)
    return np.pad(out, ((0, 0), (0, n - out.shape[1])), constant_values=PAD)


def begin(model, tokens, mask, n):
    tokens, mask = jnp.asarray(tokens), jnp.asarray(mask)
    return model.start(tokens, mask=mask, max_tokens=n)


def test_greedy_equals_transformers(pair):
    model, ours = pair
    tokens, mask = prompts(61)
    want = theirs(model, tokens, mask, 20)

    @jax.jit
    def run(ours):
        return decoding.greedy(begin(ours, tokens, mask, 20), max_tokens=20, eos=EOS, pad=PAD)

    got = run(ours)
    assert np.array_equal(got.tokens, want)
    ended = (want == EOS).any(1)
    assert 0 < ended.sum() < 64  # both kinds of rows are there
    assert np.array_equal(got.lengths, np.where(ended, (want == EOS).argmax(1) + 1, 20))


@pytest.mark.parametrize(("beams", "penalty"), [(4, 1.0), (3, 0.0), (2, 2.0)])
def test_beam_equals_transformers(pair, beams, penalty):
    model, ours = pair
    tokens, mask = prompts(61, seed=2)
    want = theirs(model, tokens, mask, 16, num_beams=beams, length_penalty=penalty)

    @jax.jit
    def run(ours):
        return decoding.beam(
            begin(ours, tokens, mask, 16),
            beams=beams,
            max_tokens=16,
            eos=EOS,
            pad=PAD,
            length_penalty=penalty,
        )

    assert np.array_equal(run(ours).tokens, want)


def markov(seed, vocab=4):
    """A model whose next token depends on the last one: sequences can be enumerated."""
    table = np.random.default_rng(seed).normal(size=(vocab, vocab)).astype(np.float32) * 2
    logits = jnp.asarray(table)
    return decoding.Start(
        lambda c, t: (logits[t], c + 1), jnp.zeros(1, jnp.int32), logits[:1]
    ), table


def log_softmax(a):
    return a - np.log(np.exp(a).sum(-1, keepdims=True))


@functools.partial(jax.jit, static_argnums=1)
def wide_beam(table, length):
    # 16 beams hold every prefix of two tokens; impossible tokens fill the vocabulary up.
    padded = jnp.pad(table, ((0, 0), (0, 28)), constant_values=-1e30)
    start = decoding.Start(lambda c, t: (padded[jnp.minimum(t, 3)], c), jnp.zeros(1), padded[:1])
    return decoding.beam(start, beams=16, max_tokens=length, length_penalty=0.0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_a_wide_beam_finds_the_likeliest_sequence(seed, length):
    """Beams enough to hold every prefix make the search exhaustive (no end token)."""
    vocab = 4
    _, table = markov(seed, vocab)
    logp = log_softmax(table)

    def total(seq):
        return sum(logp[a, b] for a, b in itertools.pairwise((0, *seq)))

    score = max(map(total, itertools.product(range(vocab), repeat=length)))
    got = wide_beam(table, length)
    assert float(got.scores[0]) == pytest.approx(score, abs=1e-4)
    # Sequences can tie: 0 1 0 and 1 0 0 go through the same pairs.
    assert total(got.tokens[0].tolist()) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("length", [2, 3])
def test_wide_beams_find_the_likeliest_sequences_in_order(length):
    _, table = markov(3)
    logp = log_softmax(table)

    def total(seq):
        return sum(logp[a, b] for a, b in itertools.pairwise((0, *seq)))

    want = sorted(map(total, itertools.product(range(4), repeat=length)), reverse=True)[:16]
    padded = jnp.pad(jnp.asarray(table), ((0, 0), (0, 28)), constant_values=-1e30)
    begin_ = decoding.Start(lambda c, t: (padded[jnp.minimum(t, 3)], c), jnp.zeros(1), padded[:1])
    got = decoding.candidates(begin_, beams=16, max_tokens=length, length_penalty=0.0)
    assert np.allclose(got.scores[0], want, atol=1e-4)
    said = [tuple(row) for row in got.tokens[0].tolist()]
    assert len(set(said)) == 16
    assert np.allclose([total(row) for row in said], want, atol=1e-4)
    assert (got.lengths == length).all()
    none = decoding.candidates(begin_, beams=3, max_tokens=0)
    assert none.tokens.shape == (1, 3, 0)


def test_sampling_follows_the_filtered_distribution():
    rows = 20_000
    logits = jnp.log(jnp.asarray([0.4, 0.3, 0.2, 0.1]))
    start = decoding.Start(
        lambda c, t: (jnp.tile(logits, (rows, 1)), c), None, jnp.tile(logits, (rows, 1))
    )

    def shares(**options):
        out = decoding.sample(start, jax.random.key(0), max_tokens=2, **options).tokens
        return np.bincount(np.asarray(out).ravel(), minlength=4) / out.size

    # 40,000 draws: standard deviation of a share at most 0.0025; four of them are allowed.
    assert np.allclose(shares(), [0.4, 0.3, 0.2, 0.1], atol=0.01)
    assert np.allclose(shares(top_k=2), [4 / 7, 3 / 7, 0, 0], atol=0.01)
    assert np.allclose(shares(top_p=0.75), [4 / 9, 3 / 9, 2 / 9, 0], atol=0.01)
    assert np.allclose(shares(top_p=1e-6), [1, 0, 0, 0])
    squared = np.array([16, 9, 4, 1]) / 30
    assert np.allclose(shares(temperature=0.5), squared, atol=0.01)


def test_rows_end_alone_and_pad_follows():
    vocab = 5
    # Row 0 says the end token at once, row 1 after two tokens, row 2 never.
    script = jnp.asarray([[1, 3, 3, 3], [2, 2, 1, 4], [2, 3, 4, 2]])

    def logits_at(i):
        return 9.0 * jax.nn.one_hot(script[:, jnp.minimum(i, 3)], vocab)

    calls = decoding.Start(
        lambda i, t: (logits_at(i + 1), i + 1), jnp.zeros((), jnp.int32), logits_at(0)
    )
    got = decoding.greedy(calls, max_tokens=4, eos=1, pad=0)
    assert got.tokens.tolist() == [[1, 0, 0, 0], [2, 2, 1, 0], [2, 3, 4, 2]]
    assert got.lengths.tolist() == [1, 3, 4]


def test_scores_are_log_probabilities_of_the_model():
    model = gpt2.GPT(
        gpt2.config(23, width=16, depth=1, heads=2, max_positions=16), rngs=nnx.Rngs(3)
    )
    tokens = jnp.asarray([[3, 4, 5], [6, 7, 8]])

    @jax.jit
    def run(model):
        return decoding.greedy(model.start(tokens, max_tokens=5), max_tokens=5)

    got = run(model)
    full = jnp.concatenate([tokens, got.tokens], 1)
    logp = jax.nn.log_softmax(jax.jit(lambda model: model(full)[0])(model))[:, 2:-1]
    want = jnp.take_along_axis(logp, got.tokens[..., None], -1)[..., 0].sum(-1)
    assert np.allclose(got.scores, want, atol=1e-4)


def test_bad_settings():
    start, _ = markov(0)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="temperature is 0"):
        decoding.sample(start, key, max_tokens=2, temperature=0.0)
    with pytest.raises(ValueError, match="top_p is 0"):
        decoding.sample(start, key, max_tokens=2, top_p=0.0)
    with pytest.raises(ValueError, match="beams is 3"):
        decoding.beam(start, beams=3, max_tokens=2)
    model = gpt2.GPT(gpt2.config(9, width=8, depth=1, heads=1, max_positions=6), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="allowed: 6 positions"):
        model.start(jnp.zeros((1, 4), jnp.int32), max_tokens=3)


@pytest.mark.parametrize(
    ("dtype", "temperature"), [("float32", 1e-38), ("float16", 1e-5), ("bfloat16", 1e-38)]
)
def test_a_temperature_next_to_zero_is_greedy(dtype, temperature):
    table = jax.random.normal(jax.random.key(3), (6, 6)).astype(dtype)
    start = decoding.Start(lambda c, t: (table[t], c), jnp.zeros(()), table[:4])
    best = decoding.greedy(start, max_tokens=5).tokens
    run = jax.jit(
        lambda t, p: decoding.sample(start, jax.random.key(0), max_tokens=5, temperature=t, top_p=p)
    )
    for top_p in (1.0, 0.9):
        assert (run(temperature, top_p).tokens == best).all()
    # Traced options are those that are known beforehand.
    plain = decoding.sample(start, jax.random.key(0), max_tokens=5, temperature=0.7, top_p=0.8)
    assert (run(0.7, 0.8).tokens == plain.tokens).all()
    assert (plain.tokens != best).any()


def test_settings_that_are_no_number_and_no_tokens_at_all():
    start, _ = markov(0)
    for options in (
        {"temperature": np.nan},
        {"temperature": np.inf},
        {"top_p": np.nan},
        {"top_k": -1},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
            decoding.sample(start, jax.random.key(0), max_tokens=2, **options)
    rows = start.logits.shape[0]
    for found in (
        decoding.greedy(start, max_tokens=0),
        decoding.beam(start, beams=1, max_tokens=0),
    ):
        assert found.tokens.shape == (rows, 0)
        assert found.lengths.tolist() == [0] * rows
    with pytest.raises(ValueError, match="max_tokens is -1"):
        decoding.greedy(start, max_tokens=-1)
    none = decoding.Start(start.step, start.cache, start.logits[:0])
    assert decoding.greedy(none, max_tokens=3).tokens.shape == (0, 3)
    model = gpt2.GPT(gpt2.config(9, width=8, depth=1, heads=1, max_positions=6), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="prompt's length is 0"):
        model.start(jnp.zeros((1, 0), jnp.int32), max_tokens=3)


@pytest.mark.parametrize("kind", ["gpt", "t5"])
def test_more_tokens_than_the_prompt_made_room_for_are_refused(kind):
    tokens = jnp.ones((2, 3), jnp.int32)
    if kind == "gpt":
        shape = gpt2.config(7, width=8, depth=1, heads=2, max_positions=32)
        model = gpt2.GPT(shape, rngs=nnx.Rngs(0))
    else:
        shape = t5.fresh_config(7, width=8, depth=1, heads=2)
        model = t5.T5(shape, rngs=nnx.Rngs(0))

    def scores(model, decode, max_tokens):
        return decode(model.start(tokens, max_tokens=2), max_tokens=max_tokens).scores

    run = jax.jit(scores, static_argnums=(1, 2))
    assert np.isfinite(run(model, decoding.greedy, 2)).all()
    for decode in (
        decoding.greedy,
        functools.partial(decoding.sample, key=jax.random.key(0)),
        functools.partial(decoding.beam, beams=2),
    ):
        with pytest.raises(
            ValueError, match=r"max_tokens is 3, allowed: .* at most the prompt's 2"
        ):
            run(model, decode, 3)
