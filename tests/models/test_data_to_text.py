"""The record writer: order, copies, decoding, and what it does with what it has never seen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.data.record_arrays import RecordVocabulary
from jaxgen.data.style_records import Fact, StyleRecords
from jaxgen.losses.coverage import exact_coverage, possible_nll
from jaxgen.models.data_to_text import DataToText, RecordIds
from jaxgen.text.masking import eos_mask

V, G, E, K = 14, 8, 3, 4
LOGPROB, FORCED = jax.jit(DataToText.logprob), jax.jit(DataToText.teacher_forced)
WRITE = jax.jit(DataToText.write, static_argnames=("max_tokens", "beams"))
START = jax.jit(lambda model, record, style: model.start(record, style, max_tokens=5)[1:3])


def make(**options):
    options = {"width": 16, "depth": 1, "heads": 2, "coverage": 5, "dropout": 0.0, **options}
    return DataToText(V, K, generated=G, slots=E, rngs=nnx.Rngs(0), **options)


def batch():
    """Two records, the second with an unknown value; references; targets with their end token."""
    ids = lambda *rows: jnp.array(rows, jnp.int32)  # noqa: E731
    record = RecordIds(
        ids([1, 2, 2], [1, 3, 0]), ids([8, 9, 9], [14, 10, 0]), ids([8, 8, 8], [14, 14, 0])
    )
    style = ids([4, 11, 5, 2], [12, 5, 2, 0])
    target = ids([8, 4, 9, 2, 0], [14, 10, 7, 2, 0])
    return record, style, target


FORMS = {
    "joint": {},
    "untied": {"tied": False},
    "gated": {"gated": True},
    "no coverage": {"coverage": 0},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_distributions_sum_to_1_and_hold_what_can_be_said(form):
    model, (record, style, target) = make(**form), batch()
    got = FORCED(model, record, style, target)
    assert got.logprobs.shape == (2, 5, V + E)
    p = np.exp(got.logprobs)
    assert np.allclose(p.sum(-1), 1, atol=1e-5)
    said = {0: {2, *range(4, G), 8, 9}, 1: {2, *range(4, G), 14, 10}}
    for row, words in said.items():
        assert set(np.flatnonzero(p[row].max(0) > 0)) == words
    logp, copied = LOGPROB(model, record, style, target)
    want = np.take_along_axis(np.asarray(got.logprobs), np.asarray(target)[..., None], -1)[..., 0]
    assert np.allclose(logp, want, atol=1e-5)
    assert np.allclose(copied, got.copied, atol=1e-6)
    assert (copied[1, :, 2] == 0).all()


def test_the_order_of_tuples_does_not_matter_to_the_set_encoder():
    record, style, target = batch()
    order = jnp.array([2, 0, 1])
    turned = RecordIds(*(a[:, order] for a in record))
    for ordered in (False, True):
        model = make(ordered=ordered)
        a = FORCED(model, record, style, target)
        b = FORCED(model, turned, style, target)
        assert np.allclose(a.copied[..., order], b.copied, atol=1e-5) != ordered
        assert np.allclose(a.logprobs, b.logprobs, atol=1e-5) != ordered


def test_equal_words_have_positions_and_equal_tuples_have_none():
    """Without positions a run of one word could not be followed: attention of equal states gives equal states."""
    record = RecordIds(*(jnp.full((1, 3), i, jnp.int32) for i in (2, 9, 8)))
    style = jnp.full((1, 4), 5, jnp.int32)
    states = jax.jit(DataToText.encode)(make(), record, style).states[0]
    tuples, words = np.split(np.asarray(states), [3])
    assert np.allclose(tuples, tuples[0], atol=1e-6)
    apart = np.abs(words[:, None] - words).max(-1)
    assert (apart[~np.eye(4, dtype=bool)] > 0.05).all()


def test_padding_does_not_matter():
    """More tuples and more words of padding; a record longer than any before is read as others."""
    model, (record, style, target) = make(), batch()
    wide = RecordIds(*(jnp.pad(a, ((0, 0), (0, 30))) for a in record))
    want, _ = LOGPROB(model, record, style, target)
    got, copied = LOGPROB(model, wide, jnp.pad(style, ((0, 0), (0, 7))), target)
    assert np.allclose(got, want, atol=1e-5)
    assert (copied[..., 3:] == 0).all()
    many = RecordIds(*(jnp.tile(a[:1], (1, 40)) for a in record))
    got, copied = LOGPROB(model, many, style[:1], target[:1])
    assert jnp.isfinite(got[0, :4]).all()
    assert copied.shape == (1, 5, 120)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_steps_of_decoding_are_those_of_training(form):
    model, (record, style, target) = make(**form), batch()
    want = FORCED(model, record, style, target).logprobs
    step = jax.jit(DataToText._decode_step)
    cache, logits = START(model, record, style)
    one_hot = step(model, cache, jax.nn.one_hot(target[:, 0], V + E))[0]
    assert np.allclose(one_hot, want[:, 1], atol=1e-4)
    for t in range(5):
        assert np.allclose(logits, want[:, t], atol=1e-4)
        logits, cache = step(model, cache, target[:, t])


def test_beams_write_what_can_be_said_and_score_it():
    model, (record, style, _) = make(), batch()
    found = WRITE(model, record, style, max_tokens=5, beams=3)
    logp, _ = LOGPROB(model, record, style, found.tokens)
    inside = jnp.arange(5) < found.lengths[:, None]
    total = jnp.where(inside, logp, 0).sum(-1) / found.lengths
    assert np.allclose(found.scores, total, atol=1e-4)
    greedy = WRITE(model, record, style, max_tokens=5, beams=1).tokens
    best = FORCED(model, record, style, greedy).logprobs.argmax(-1)
    assert (jnp.where(eos_mask(greedy, 2), best, 0) == greedy).all()


def test_empty_records_and_bad_sizes_are_refused():
    model, (record, style, target) = make(), batch()
    none = RecordIds(record.type, record.value.at[1].set(0), record.owner)
    with pytest.raises(ValueError, match=r"tuples of each record is \[3, 0\], allowed: at least 1"):
        model.logprob(none, style, target)
    with pytest.raises(ValueError, match="generated is 15, allowed: 4 to the vocabulary's 14"):
        DataToText(V, K, generated=V + 1, rngs=nnx.Rngs(0))


def test_a_model_without_copies_generates_alone():
    model, (record, style, target) = make(copies=False, coverage=0), batch()
    got = FORCED(model, record, style, target)
    assert (got.copied == 0).all()
    assert np.allclose(np.exp(got.logprobs).sum(-1), 1, atol=1e-5)
    assert jnp.isneginf(got.logprobs[..., G:]).all()
    grads = jax.grad(lambda m: jnp.exp(m.logprob(record, style, target)[0]).sum())(model)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(grads))


def test_states_are_those_that_words_are_scored_from():
    model, inputs = make(), batch()
    states, memory = model.states(*inputs)
    assert states.shape == (2, 5, 16)
    assert (memory.real == inputs[0].mask).all()
    words = model.tokens.embedding[...][:G]
    scores = states @ words.T + model.bias[...]
    got = FORCED(model, *inputs).logprobs
    # Words that are generated alone keep their differences: the end token and 4 to 7.
    want = scores[..., 4:G] - scores[..., 2:3]
    assert np.allclose(got[..., 4:G] - got[..., 2:3], want, atol=1e-4)


def test_dropout_needs_a_key(key):
    model, inputs = make(dropout=0.5), batch()
    plain = LOGPROB(model, *inputs)[0]
    assert (plain == LOGPROB(model, *inputs)[0]).all()
    assert not np.allclose(plain[0, :4], LOGPROB(model, *inputs, key)[0][0, :4])


def grammar(count, names, seed):
    """Sentences of two forms; the reference has the other record, in the form that is wanted."""
    rng = np.random.default_rng(seed)
    x, y = [], []
    for _ in range(2 * count):
        a, n, m = rng.choice(names), *map(str, rng.choice(np.arange(10, 40), 2, replace=False))
        x.append((Fact("NAME", a, a), Fact("PTS", n, a), Fact("REB", m, a)))
        y.append(
            [f"{a} got {n} points and {m} boards .", f"with {m} boards , {a} had {n} points ."]
        )
    forms = rng.integers(0, 2, count)
    aux = [y[i][f] for i, f in enumerate(forms)]
    ref = [y[count + i][f] for i, f in enumerate(forms)]
    return StyleRecords(x[:count], x[count:], aux, ref)


@pytest.mark.slow
def test_it_learns_to_write_records_with_names_that_it_never_saw():
    train = grammar(256, [f"N{i}" for i in range(200)], 0)
    vocabulary = RecordVocabulary.build(train, min_count=3, slots=4)
    model = DataToText(
        len(vocabulary),
        len(vocabulary.types),
        generated=vocabulary.generated,
        slots=vocabulary.slots,
        width=48,
        depth=1,
        heads=4,
        coverage=16,
        dropout=0.0,
        rngs=nnx.Rngs(0),
    )
    ids = lambda a: RecordIds(a["x_type"], a["x_value"], a["x_owner"])  # noqa: E731
    tx = optax.adam(4e-3)
    opt = tx.init(nnx.state(model, nnx.Param))
    graph, params = nnx.split(model)

    @jax.jit
    def step(params, opt, a):
        def loss(params):
            target, real = a["y_aux"], eos_mask(a["y_aux"], 2)
            logp, copied = nnx.merge(graph, params).logprob(ids(a), a["y_ref"], target)
            nats, count, _ = possible_nll(logp, real)
            said = exact_coverage(copied, step_mask=real, tuple_mask=ids(a).mask)
            return nats.sum() / count.sum() + 0.2 * said.mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    arrays = {k: jnp.asarray(v) for k, v in vocabulary.arrays(train).items()}
    for i in range(400):
        rows = np.random.default_rng(i).permutation(256)[:64]
        params, opt, value = step(params, opt, {k: a[rows] for k, a in arrays.items()})
    assert value < 0.2
    test = grammar(32, ["Zoe", "Cy"], 9)
    some = {k: jnp.asarray(v) for k, v in vocabulary.arrays(test).items()}
    assert (some["x_value"] >= len(vocabulary)).any()
    written = nnx.merge(graph, params).write(ids(some), some["y_ref"], max_tokens=12, beams=2)
    texts = vocabulary.sentences(np.asarray(written.tokens), test)
    same = np.mean([a == b for a, b in zip(texts, test.y_aux, strict=True)])
    assert same > 0.8, texts[:4]
