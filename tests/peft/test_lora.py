import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.errors import ConfigError
from jaxgen.models import gpt2, hf, t5
from jaxgen.nn import mlp
from jaxgen.peft import lora
from tests.families import FAMILIES

V = 23
TARGETS = r"attention/"


@pytest.fixture(scope="module")
def model():
    spec = gpt2.config(V, width=16, depth=2, heads=2, max_positions=16, init_std=0.2)
    return gpt2.GPT(spec, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(0), (3, 9), 0, V)


def busy(model, seed=1):
    """Adapters that do something."""
    wrapped = lora.wrap(model, 4, 8.0, TARGETS, jax.random.key(seed))
    for i, (_, _, _, layer) in enumerate(lora.layers(wrapped, lora.LoRALinear)):
        layer.b[...] = 0.2 * jax.random.normal(jax.random.key(i), layer.b.shape)
    return wrapped


def test_fresh_adapters_change_nothing(model, tokens):
    wrapped = lora.wrap(model, 4, 32.0, TARGETS, jax.random.key(0))
    assert np.array_equal(wrapped(tokens)[0], model(tokens)[0])
    found = [path for path, *_ in lora.layers(wrapped, lora.LoRALinear)]
    assert found == [f"stack/blocks/{i}/attention/{n}" for i in range(2) for n in ("out", "qkv")]
    assert all(float(jnp.abs(d).max()) == 0 for d in lora.delta(wrapped).values())
    assert not list(lora.layers(model, lora.LoRALinear)), "the model itself is left alone"


def test_update_is_the_scaled_product(model):
    wrapped = busy(model)
    path, _, _, layer = next(lora.layers(wrapped, lora.LoRALinear))
    x = jax.random.normal(jax.random.key(3), (5, layer.a.shape[0]))
    dense = layer.base.kernel[...] + 8.0 / 4 * layer.a[...] @ layer.b[...]
    assert np.allclose(layer(x), x @ dense + layer.base.bias[...], atol=1e-5)
    assert np.allclose(lora.delta(wrapped)[path], dense - layer.base.kernel[...], atol=1e-6)


def test_merge_keeps_outputs_and_unmerge_undoes_it(model, tokens):
    wrapped = busy(model)
    want = wrapped(tokens)[0]
    merged = lora.merge(wrapped)
    assert np.abs(want - model(tokens)[0]).max() > 1e-2
    assert np.abs(merged(tokens)[0] - want).max() < 1e-5
    assert np.abs(lora.merge(merged)(tokens)[0] - want).max() < 1e-5
    back = lora.unmerge(merged)
    assert np.abs(back(tokens)[0] - want).max() < 1e-5
    plain = lora.unwrap(merged)
    assert not list(lora.layers(plain, lora.LoRALinear))
    assert np.abs(plain(tokens)[0] - want).max() < 1e-5
    with pytest.raises(ValueError, match="is not merged"):
        lora.unwrap(wrapped)


def test_training_moves_the_adapters_alone(model, tokens):
    wrapped = lora.wrap(model, 4, 8.0, TARGETS, jax.random.key(0))
    adapters, put = lora.split(wrapped)
    assert sum(a.size for a in jax.tree.leaves(adapters)) == 2 * 4 * (16 + 48 + 16 + 16)

    def loss(a):
        logp = jax.nn.log_softmax(put(a)(tokens[:, :-1])[0])
        return -jnp.take_along_axis(logp, tokens[:, 1:, None], -1).mean()

    tx = optax.adam(1e-2)
    state = tx.init(adapters)
    before = float(loss(adapters))

    @jax.jit
    def step(a, s):
        updates, s = tx.update(jax.grad(loss)(a), s, a)
        return optax.apply_updates(a, updates), s

    for _ in range(40):
        adapters, state = step(adapters, state)
    assert float(loss(adapters)) < before - 0.3
    trained = put(adapters)
    pairs = zip(
        lora.layers(trained, lora.LoRALinear), lora.layers(wrapped, lora.LoRALinear), strict=True
    )
    for (*_, new), (*_, old) in pairs:
        assert np.array_equal(new.base.kernel[...], old.base.kernel[...])
        assert np.abs(new.b[...]).max() > 0


def test_any_module_and_dropout(tokens):
    net = mlp.MLPSkipNet(6, width=8, depth=2, rngs=nnx.Rngs(0))
    wrapped = lora.wrap(net, 2, 2.0, (r"^layers/1$", "out"), jax.random.key(0), dropout=0.5)
    names = [path for path, *_ in lora.layers(wrapped, lora.LoRALinear)]
    assert names == ["layers/1", "out", "time_out"]
    *_, layer = next(lora.layers(wrapped, lora.LoRALinear))
    layer.b[...] = jnp.ones_like(layer.b[...])
    x = jnp.ones((4000, layer.a.shape[0]))
    quiet, loud = layer(x), layer(x, jax.random.key(1))
    # Dropout at rate 0.5 keeps the mean; 4,000 rows bring its error below 5 % of the spread.
    spread = float(jnp.std(loud - quiet))
    assert spread > 0
    assert np.abs((loud - quiet).mean(0)).max() < 5 * spread / np.sqrt(4000)


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_hand_every_update_a_key(family, tokens):
    """With one layer's update on and all others zero, a key changes the output: no layer is forgotten."""
    targets = r"(qkv|query|key|value|out|up|gate|down)$"
    net = lora.wrap(FAMILIES[family](V), 2, 2.0, targets, jax.random.key(0), dropout=0.5)
    for *_, layer in lora.layers(net, lora.LoRALinear):
        layer.b[...] = jax.random.normal(jax.random.key(2), layer.b.shape)

    @jax.jit
    def scaled(net, scales, key):
        model = nnx.clone(net)
        for scale, (*_, layer) in zip(scales, lora.layers(model, lora.LoRALinear), strict=True):
            layer.b[...] = scale * layer.b[...]
        return model(tokens, tokens, key=key) if family == "t5" else model(tokens, key=key)[0]

    run = functools.partial(scaled, net)
    names = [path for path, *_ in lora.layers(net, lora.LoRALinear)]
    keys = jax.random.split(jax.random.key(1), 2)
    for name, scales in zip(names, np.eye(len(names)), strict=True):
        quiet, one, other = (run(scales, key) for key in (None, *keys))
        assert np.array_equal(one, run(scales, keys[0])), name
        assert np.abs(one - quiet).max() > 1e-4, name
        assert np.abs(one - other).max() > 1e-4, name
    off = np.zeros(len(names))
    assert np.array_equal(run(off, None), run(off, keys[0])), "the rest has no dropout here"


def test_bad_settings(model):
    with pytest.raises(ValueError, match="rank is 0"):
        lora.wrap(model, 0, 1.0, TARGETS, jax.random.key(0))
    with pytest.raises(ValueError, match=r"match no linear layer, allowed: parts of stack/blocks"):
        lora.wrap(model, 2, 1.0, "nothing", jax.random.key(0))


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_peft_reads_what_we_write_and_we_read_it_back(name, model, tokens, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    peft = pytest.importorskip("peft", reason="needs peft: install the extra `parity`")
    transformers = pytest.importorskip("transformers")
    if name == "t5":
        model = t5.T5(t5.config(V, width=16, depth=2, heads=2), rngs=nnx.Rngs(0))
        wrapped = lora.wrap(model, 4, 8.0, (r"/query$", r"/value$"), jax.random.key(0))
        for *_, layer in lora.layers(wrapped, lora.LoRALinear):
            layer.b[...] = 0.2 * jax.random.normal(jax.random.key(7), layer.b.shape)
    else:
        wrapped = busy(model)
    hf.save(model, tmp_path / "base")
    lora.save_peft(wrapped, tmp_path / "adapter")
    cls = (
        transformers.GPT2LMHeadModel if name == "gpt2" else transformers.T5ForConditionalGeneration
    )
    base = cls.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.tensor(np.asarray(tokens))
    with torch.no_grad():
        inputs = {"decoder_input_ids": ids} if name == "t5" else {}
        want = theirs(input_ids=ids, **inputs).logits.numpy()
    run = (lambda m: m(tokens, tokens)) if name == "t5" else (lambda m: m(tokens)[0])
    assert np.abs(run(wrapped) - want).max() < 1e-4
    assert np.abs(run(model) - want).max() > 1e-2
    again = lora.load_peft(model, tmp_path / "adapter")
    assert np.abs(run(again) - run(wrapped)).max() < 1e-6

    theirs.save_pretrained(tmp_path / "again")
    from_peft = lora.load_peft(model, tmp_path / "again")
    assert np.abs(run(from_peft) - run(wrapped)).max() < 1e-6


def test_bad_adapters_are_refused(model, tmp_path):
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        lora.load_peft(model, tmp_path)
    lora.save_peft(busy(model), tmp_path)
    small = gpt2.GPT(gpt2.config(V, width=16, depth=1, heads=2, max_positions=16), rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"transformer\.h\.1"):
        lora.load_peft(small, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(ConfigError, match="'IA3', allowed: LORA"):
        lora.load_peft(model, tmp_path)


def test_wrapped_twice_has_two_updates_and_merges_to_their_sum(model, tokens):
    once = busy(model)
    twice = lora.wrap(once, 2, 6.0, TARGETS, jax.random.key(5))
    assert jnp.allclose(twice(tokens)[0], once(tokens)[0], atol=1e-6)
    for i, (*_, layer) in enumerate(lora.layers(twice, lora.LoRALinear)):
        layer.b[...] = 0.3 * jax.random.normal(jax.random.key(i), layer.b.shape)
    outputs, first, both = twice(tokens)[0], lora.delta(once), lora.delta(twice)
    assert jnp.abs(outputs - once(tokens)[0]).max() > 0.01
    path = next(iter(both))
    outer = next(layer for p, _, _, layer in lora.layers(twice, lora.LoRALinear) if p == path)
    np.testing.assert_allclose(
        both[path], first[path] + 3.0 * outer.a[...] @ outer.b[...], atol=1e-6
    )
    merged = lora.merge(twice)
    plain = lora.unwrap(merged)
    assert not list(lora.layers(plain, lora.LoRALinear))
    for other in (merged, plain, lora.unmerge(merged)):
        np.testing.assert_allclose(other(tokens)[0], outputs, atol=1e-5)


def test_several_updates_do_not_fit_a_file(model, tmp_path):
    twice = lora.wrap(busy(model), 4, 8.0, TARGETS, jax.random.key(5))
    with pytest.raises(ValueError, match="has several updates"):
        lora.save_peft(twice, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": float("nan")}, "alpha is nan, allowed: finite"),
        ({"dropout": 1.0}, r"dropout is 1\.0, allowed: at least 0, below 1"),
        ({"targets": "("}, r"targets are '\(', allowed: regular expressions"),
    ],
)
def test_options_that_cannot_be(options, message, model):
    given = {"rank": 2, "alpha": 4.0, "targets": TARGETS, "key": jax.random.key(0)} | options
    with pytest.raises(ValueError, match=message):
        lora.wrap(model, **given)
