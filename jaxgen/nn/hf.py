"""Hugging Face model folders, read and written without PyTorch.

A folder holds `config.json` and `model.safetensors`, or shards with `model.safetensors.index.json`.
One table for each model type maps our parameter paths to the names in the file.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors import numpy as st_numpy

from jaxgen.errors import ConfigError
from jaxgen.mesh import path_name
from jaxgen.nn import bert, gpt2, t5
from jaxgen.nn.transformer import Spec

Model: TypeAlias = gpt2.GPT | bert.Bert | t5.T5

# Rules: our path -> name in the file. `{}` takes the layer. A trailing "T" marks a transposed matrix
# (PyTorch's Linear stores [out, in]).
Rules = tuple[tuple[str, str], ...]


def _linear(ours: str, theirs: str, *, transposed: bool = True) -> Rules:
    return (
        (rf"{ours}/kernel", f"{theirs}.weight" + ("|T" if transposed else "")),
        (rf"{ours}/bias", f"{theirs}.bias"),
    )


def _norm(ours: str, theirs: str) -> Rules:
    return ((rf"{ours}/scale", f"{theirs}.weight"), (rf"{ours}/bias", f"{theirs}.bias"))


def _gpt_rules(layer: str, attention: Rules, transposed: bool) -> Rules:
    block = r"stack/blocks/(\d+)"
    return (
        (r"tokens/embedding", "transformer.wte.weight"),
        (r"positions/embedding", "transformer.wpe.weight"),
        (r"head/kernel", "lm_head.weight|T"),
        *_norm(f"{block}/norm1", f"{layer}.ln_1"),
        *attention,
        *_norm(f"{block}/norm2", f"{layer}.ln_2"),
        *_linear(f"{block}/mlp/up", f"{layer}.mlp.c_fc", transposed=transposed),
        *_linear(f"{block}/mlp/down", f"{layer}.mlp.c_proj", transposed=transposed),
        *_norm("stack/norm", "transformer.ln_f"),
    )


def _gpt2_rules() -> Rules:
    ours, theirs = r"stack/blocks/(\d+)/attention", "transformer.h.{}.attn"
    attention = (
        *_linear(f"{ours}/qkv", f"{theirs}.c_attn", transposed=False),
        *_linear(f"{ours}/out", f"{theirs}.c_proj", transposed=False),
    )
    return _gpt_rules("transformer.h.{}", attention, transposed=False)


def _gpt_neo_rules() -> Rules:
    ours, theirs = r"stack/blocks/(\d+)/attention", "transformer.h.{}.attn.attention"
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    attention: Rules = ()
    for mine, name in names.items():
        attention += _linear(f"{ours}/{mine}", f"{theirs}.{name}")
    return _gpt_rules("transformer.h.{}", attention, transposed=True)


def _bert_rules() -> Rules:
    block, layer = r"stack/blocks/(\d+)", "bert.encoder.layer.{}"
    rules: Rules = (
        (r"tokens/embedding", "bert.embeddings.word_embeddings.weight"),
        (r"positions/embedding", "bert.embeddings.position_embeddings.weight"),
        (r"types/embedding", "bert.embeddings.token_type_embeddings.weight"),
        *_norm("norm", "bert.embeddings.LayerNorm"),
        *_linear("pooler", "bert.pooler.dense"),
        *_linear("mlm/transform", "cls.predictions.transform.dense"),
        *_norm("mlm/norm", "cls.predictions.transform.LayerNorm"),
        (r"mlm/bias", "cls.predictions.bias"),
    )
    for name in ("query", "key", "value"):
        rules += _linear(f"{block}/attention/{name}", f"{layer}.attention.self.{name}")
    return (
        *rules,
        *_linear(f"{block}/attention/out", f"{layer}.attention.output.dense"),
        *_norm(f"{block}/norm1", f"{layer}.attention.output.LayerNorm"),
        *_linear(f"{block}/mlp/up", f"{layer}.intermediate.dense"),
        *_linear(f"{block}/mlp/down", f"{layer}.output.dense"),
        *_norm(f"{block}/norm2", f"{layer}.output.LayerNorm"),
    )


def _t5_rules(gated: bool) -> Rules:
    rules: Rules = (
        (r"tokens/embedding", "shared.weight"),
        (r"head/kernel", "lm_head.weight|T"),
    )
    for stack in ("encoder", "decoder"):
        block, layer = rf"{stack}/blocks/(\d+)", stack + ".block.{}.layer"
        attention = [("attention", f"{layer}.0.SelfAttention")]
        norms = [("norm1", f"{layer}.0.layer_norm")]
        last = 1
        if stack == "decoder":
            attention.append(("cross", f"{layer}.1.EncDecAttention"))
            norms.append(("norm_cross", f"{layer}.1.layer_norm"))
            last = 2
        norms.append(("norm2", f"{layer}.{last}.layer_norm"))
        for ours, theirs in attention:
            for mine, name in {"query": "q", "key": "k", "value": "v", "out": "o"}.items():
                rules += _linear(f"{block}/{ours}/{mine}", f"{theirs}.{name}")
        for ours, theirs in norms:
            rules += _norm(f"{block}/{ours}", theirs)
        up = "wi_1" if gated else "wi"
        for ours, theirs in (("up", up), ("gate", "wi_0"), ("down", "wo")):
            rules += _linear(f"{block}/mlp/{ours}", f"{layer}.{last}.DenseReluDense.{theirs}")
        rules += _norm(f"{stack}/norm", f"{stack}.final_layer_norm")
        rules += (
            (
                f"{stack}/relative/embedding",
                f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            ),
        )
    return rules


def rules(model: Model) -> Rules:
    """The table of a model."""
    if isinstance(model, gpt2.GPT):
        return _gpt2_rules() if model.spec.kind == "gpt2" else _gpt_neo_rules()
    if isinstance(model, bert.Bert):
        return _bert_rules()
    return _t5_rules(model.spec.encoder.gated)


def file_name(path: str, table: Rules) -> tuple[str, bool]:
    """(name in the file, whether it is transposed there) of one of our parameter paths.

    Raises:
      KeyError: for a path that no rule matches.
    """
    for pattern, name in table:
        match = re.fullmatch(pattern, path)
        if match:
            plain, _, flag = name.format(*match.groups()).partition("|")
            return plain, flag == "T"
    raise KeyError(path)


# Buffers and tied copies that files may hold beside parameters.
IGNORED = re.compile(
    r"(.*\.)?attn\.(attention\.)?(bias|masked_bias)"
    r"|(bert\.)?embeddings\.position_ids"
    r"|(encoder|decoder)\.embed_tokens\.weight"
    r"|cls\.predictions\.decoder\.(weight|bias)"
    r"|cls\.seq_relationship\..*"
)


def _gpt_spec(c: Mapping[str, Any], names: set[str]) -> gpt2.GPTSpec:
    neo = c["model_type"] == "gpt_neo"
    width = c["hidden_size"] if neo else c["n_embd"]
    depth = c["num_layers"] if neo else c["n_layer"]
    heads = c["num_heads"] if neo else c["n_head"]
    windows: tuple[int, ...] = ()
    if neo:
        kinds = c.get("attention_layers") or [
            kind for group, times in c["attention_types"] for _ in range(times) for kind in group
        ]
        windows = tuple(c["window_size"] if kind == "local" else 0 for kind in kinds)
    stack = Spec(
        width=width,
        depth=depth,
        heads=heads,
        head_dim=width // heads,
        mlp_width=c.get("intermediate_size" if neo else "n_inner") or 4 * width,
        norm_eps=c["layer_norm_epsilon"],
        activation=_activation(c["activation_function"]),
        fused_qkv=not neo,
        qkv_bias=not neo,
        scale=1.0 if neo else None,
        windows=windows,
        dropout=c["resid_dropout"] if neo else c["resid_pdrop"],
    )
    tied = c.get("tie_word_embeddings", True)
    positions = c["max_position_embeddings"] if neo else c["n_positions"]
    return gpt2.GPTSpec(c["vocab_size"], positions, stack, tied, c["model_type"])


def _bert_spec(c: Mapping[str, Any], names: set[str]) -> bert.BertSpec:
    if c.get("position_embedding_type", "absolute") != "absolute":
        raise ConfigError(
            "position_embedding_type", c["position_embedding_type"], "absolute, for BERT"
        )
    return bert.spec(
        c["vocab_size"],
        width=c["hidden_size"],
        depth=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        mlp_width=c["intermediate_size"],
        max_positions=c["max_position_embeddings"],
        types=c["type_vocab_size"],
        pooler=any("pooler." in n for n in names),
        mlm=any(n.startswith("cls.predictions.") for n in names),
        activation=_activation(c["hidden_act"]),
        norm_eps=c["layer_norm_eps"],
        dropout=c["hidden_dropout_prob"],
    )


def _t5_spec(c: Mapping[str, Any], names: set[str]) -> t5.T5Spec:
    kind, _, gated = c.get("feed_forward_proj", "relu").rpartition("-")
    activation = "gelu_new" if (kind, gated) == ("gated", "gelu") else gated
    tied_before = c.get("tie_word_embeddings", True) is not False
    return t5.spec(
        c["vocab_size"],
        width=c["d_model"],
        depth=c["num_layers"],
        decoder_depth=c.get("num_decoder_layers") or c["num_layers"],
        heads=c["num_heads"],
        head_dim=c["d_kv"],
        mlp_width=c["d_ff"],
        tied="lm_head.weight" not in names,
        scale_output=c.get("scale_decoder_outputs", tied_before),
        gated=kind == "gated",
        activation=_activation(activation),
        norm_eps=c["layer_norm_epsilon"],
        relative_buckets=c["relative_attention_num_buckets"],
        relative_distance=c.get("relative_attention_max_distance", 128),
        dropout=c["dropout_rate"],
    )


ACTIVATION_NAMES = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def _activation(name: str) -> str:
    if name not in ACTIVATION_NAMES:
        raise ConfigError("activation", name, "one of " + ", ".join(ACTIVATION_NAMES))
    return ACTIVATION_NAMES[name]


KINDS: dict[str, Callable[..., Any]] = {
    "gpt2": _gpt_spec,
    "gpt_neo": _gpt_spec,
    "bert": _bert_spec,
    "t5": _t5_spec,
}


def tensor_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The safetensors files of a folder: one, or the shards of its index.

    Raises:
      ConfigError: names the file that is missing or cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        try:
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError) as e:
            raise ConfigError("folder", str(index), f"an index with a weight_map ({e})") from e
    for name in files:
        if not (folder / name).is_file():
            raise ConfigError("folder", str(folder / name), "a folder with safetensors weights")
    return [folder / name for name in files]


def _open(path: pathlib.Path) -> Any:
    try:
        # bfloat16 has no numpy type of its own; the flax framework reads it as ml_dtypes.
        return safe_open(path, framework="flax")
    except (SafetensorError, OSError) as e:
        raise ConfigError("folder", str(path), f"a readable safetensors file ({e})") from e


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a folder.

    Raises:
      ConfigError: no such file, or one that cannot be read; it names the file.
    """
    out = {}
    for path in tensor_files(folder):
        with _open(path) as f:
            for key in f.keys():  # noqa: SIM118
                out[key] = np.asarray(f.get_tensor(key))
    return out


def read_spec(folder: str | pathlib.Path, **options: Any) -> Any:
    """The spec of the model in a folder, without its weights; arguments and errors as in `load`."""
    folder = pathlib.Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError("folder", str(folder), "a folder with config.json")
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as e:
        raise ConfigError("folder", str(path), f"readable JSON ({e})") from e
    kind = config.get("model_type")
    if kind not in KINDS:
        raise ConfigError("model_type", kind, "one of " + ", ".join(KINDS))
    names: set[str] = set()
    for file in tensor_files(folder):
        with _open(file) as f:
            names |= set(f.keys())
    spec = KINDS[kind](config, names)
    stacks = ("encoder", "decoder") if kind == "t5" else ("stack",)
    changed = {name: dataclasses.replace(getattr(spec, name), **options) for name in stacks}
    return dataclasses.replace(spec, **changed)


def make(spec: Any, *, rngs: nnx.Rngs) -> Model:
    """A fresh model of a spec."""
    if isinstance(spec, gpt2.GPTSpec):
        return gpt2.GPT(spec, rngs=rngs)
    return bert.Bert(spec, rngs=rngs) if isinstance(spec, bert.BertSpec) else t5.T5(spec, rngs=rngs)


def load(folder: str | pathlib.Path, **options: Any) -> Model:
    """The model of a Hugging Face folder: GPT-2, GPT-Neo, BERT or T5, by its `model_type`.

    Args:
      folder: with config.json and safetensors weights.
      options: fields of `transformer.Spec` to set, such as dtype, remat, scan.

    Raises:
      ConfigError: not such a folder, an unknown model type, or weights that do not fit; the message
        lists missing, unexpected and mis-shaped names.
    """
    spec = read_spec(folder, **options)
    model = jax.eval_shape(lambda: make(spec, rngs=nnx.Rngs(0)))
    return fill(model, read_tensors(pathlib.Path(folder)))


def fill(model: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """A model (or its shapes) with the parameters of a file; float32.

    Raises:
      ConfigError: lists names that are missing, unexpected or mis-shaped.
    """
    table = rules(model)
    prefixes: dict[type, str] = {gpt2.GPT: "transformer.", bert.Bert: "bert."}
    prefix = prefixes.get(type(model), "")
    # Files of a bare backbone leave the prefix out.
    bare = bool(prefix) and not any(n.startswith(prefix) for n in tensors)
    given = {
        (prefix + n if bare and not n.startswith("cls.") else n): t for n, t in tensors.items()
    }
    missing, wrong, used = [], [], set()

    def place(path: tuple[Any, ...], a: Any) -> Any:
        name, transposed = file_name(path_name(path), table)
        used.add(name)
        if name not in given:
            missing.append(name)
            return a
        value = given[name].T if transposed else given[name]
        if value.shape != a.shape:
            want = a.shape[::-1] if transposed else a.shape
            wrong.append(f"{name} {list(given[name].shape)} instead of {list(want)}")
            return a
        return jnp.asarray(value, jnp.float32)

    filled = jax.tree_util.tree_map_with_path(place, model)
    tied = {"lm_head.weight"}  # a copy of the embedding, where our model has no head
    unexpected = [n for n in given if n not in used | tied and not IGNORED.fullmatch(n)]
    problems = [
        f"{what}: {', '.join(sorted(names)[:8])}" + (" .." if len(names) > 8 else "")
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("mis-shaped", wrong),
        )
        if names
    ]
    if problems:
        raise ConfigError("weights", "; ".join(problems), f"the names of {type(model).__name__}")
    return filled


def tensors_of(model: Model) -> dict[str, np.ndarray]:
    """The model's parameters by their names in a file, on the host."""
    table, out = rules(model), {}
    for path, a in jax.tree_util.tree_leaves_with_path(model):
        name, transposed = file_name(path_name(path), table)
        value = np.asarray(a)
        out[name] = np.ascontiguousarray(value.T if transposed else value)
    return out


def config_of(model: Model) -> dict[str, Any]:
    """config.json of a model, as transformers reads it."""
    names = {v: k for k, v in reversed(ACTIVATION_NAMES.items())}
    if isinstance(model, gpt2.GPT):
        g, s = model.spec, model.spec.stack
        shared = {
            "model_type": g.kind,
            "vocab_size": g.vocab_size,
            "layer_norm_epsilon": s.norm_eps,
            "activation_function": names[s.activation],
            "tie_word_embeddings": g.tied,
        }
        if g.kind == "gpt2":
            return shared | {
                "architectures": ["GPT2LMHeadModel"],
                "n_embd": s.width,
                "n_layer": s.depth,
                "n_head": s.heads,
                "n_inner": s.mlp_width,
                "n_positions": g.max_positions,
                "resid_pdrop": s.dropout,
                "embd_pdrop": s.dropout,
                "attn_pdrop": s.dropout,
            }
        kinds = ["local" if w else "global" for w in s.windows or (0,) * s.depth]
        return shared | {
            "architectures": ["GPTNeoForCausalLM"],
            "hidden_size": s.width,
            "num_layers": s.depth,
            "num_heads": s.heads,
            "intermediate_size": s.mlp_width,
            "max_position_embeddings": g.max_positions,
            "window_size": max(s.windows, default=0) or 256,
            "attention_types": [[[kind], 1] for kind in kinds],
            "resid_dropout": s.dropout,
            "embed_dropout": s.dropout,
            "attention_dropout": s.dropout,
        }
    if isinstance(model, bert.Bert):
        b, s = model.spec, model.spec.stack
        return {
            "model_type": "bert",
            "architectures": ["BertForMaskedLM" if b.mlm else "BertModel"],
            "vocab_size": b.vocab_size,
            "hidden_size": s.width,
            "num_hidden_layers": s.depth,
            "num_attention_heads": s.heads,
            "intermediate_size": s.mlp_width,
            "max_position_embeddings": b.max_positions,
            "type_vocab_size": b.types,
            "hidden_act": names[s.activation],
            "layer_norm_eps": s.norm_eps,
            "hidden_dropout_prob": s.dropout,
            "attention_probs_dropout_prob": s.dropout,
        }
    e, d = model.spec.encoder, model.spec.decoder
    gelu = "gated-gelu" if e.activation == "gelu_tanh" else f"gated-{names[e.activation]}"
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": model.spec.vocab_size,
        "d_model": e.width,
        "d_kv": e.head_dim,
        "d_ff": e.mlp_width,
        "num_layers": e.depth,
        "num_decoder_layers": d.depth,
        "num_heads": e.heads,
        "feed_forward_proj": gelu if e.gated else names[e.activation],
        "layer_norm_epsilon": e.norm_eps,
        "relative_attention_num_buckets": e.relative_buckets,
        "relative_attention_max_distance": e.relative_distance,
        "dropout_rate": e.dropout,
        "tie_word_embeddings": model.spec.tied,
        "scale_decoder_outputs": model.spec.scale_output,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def save(
    model: Model,
    folder: str | pathlib.Path,
    *,
    shard_bytes: int = 5 * 10**9,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json and safetensors, so that `load` and transformers read them.

    Args:
      shard_bytes: a file holds at most this much; more than one file brings an index.
      config: further fields of config.json, such as token ids.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    tensors = tensors_of(model)
    for name, value in tensors.items():
        if shards[-1] and size + value.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    meta = {"format": "pt"}
    if len(shards) == 1:
        st_numpy.save_file(shards[0], folder / "model.safetensors", meta)
    else:
        where: dict[str, str] = {}
        for i, shard in enumerate(shards, 1):
            file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            st_numpy.save_file(shard, folder / file, meta)
            where |= dict.fromkeys(shard, file)
        total = {"total_size": sum(v.nbytes for v in tensors.values())}
        index = json.dumps({"metadata": total, "weight_map": where}, indent=2)
        (folder / "model.safetensors.index.json").write_text(index)
    text = json.dumps(config_of(model) | dict(config or {}), indent=2) + "\n"
    (folder / "config.json").write_text(text)
