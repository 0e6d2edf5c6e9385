"""GGUF files as Hugging Face would have them: a config.json, and tensors by their names there.

Architectures `llama` (Llama, SmolLM2, Mistral), `qwen2` and `qwen3`. Quantised tensors are made float32 by
PyPI's `gguf`. llama.cpp turns neighbouring channels where Llama's files turn halves of a head, so its
converter interleaves the rows of `llama`'s query and key matrices; here they go back.
Source: ggml-org/llama.cpp, convert_hf_to_gguf.py and gguf-py/gguf/constants.py.
"""

import pathlib
import re
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from jaxgen.errors import ConfigError
from jaxgen.nn.rotary import Rotary, frequencies
from jaxgen.text.gguf import is_gguf, metadata, reader

__all__ = ["is_gguf", "read_config", "read_tensors", "tensor_names"]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ROPE_FACTORS = "rope_freqs.weight"
# Fields of `ARCHITECTURE.NAME` that are read, or that change no number where a file has them.
_READ = frozenset(
    """
    block_count context_length embedding_length feed_forward_length vocab_size rope.freq_base
    rope.dimension_count rope.scaling.type rope.scaling.factor attention.head_count
    attention.head_count_kv attention.key_length attention.value_length attention.sliding_window
    attention.layer_norm_rms_epsilon rope.scaling.original_context_length
    """.split()  # noqa: SIM905
)


def file_name(name: str) -> str | None:
    """A tensor's name in a Hugging Face file; None for one that no model of ours has."""
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if block and block[2] in _BLOCK:
        return f"model.layers.{block[1]}.{_BLOCK[block[2]]}.{block[3]}"
    part, _, leaf = name.rpartition(".")
    return f"{_TOP[part]}.{leaf}" if part in _TOP else None


def tensor_names(path: str | pathlib.Path) -> set[str]:
    """The names of a file's tensors, as Hugging Face has them.

    Raises:
      ConfigError: no readable GGUF file, or a tensor of another model.
    """
    names = {t.name: file_name(t.name) for t in reader(path).tensors if t.name != _ROPE_FACTORS}
    strange = sorted(n for n, ours in names.items() if ours is None)
    if strange:
        raise ConfigError("weights", strange[:4], "tensors of Llama, Mistral, Qwen2 or Qwen3")
    return {n for n in names.values() if n is not None}


def read_tensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a file by their names in a Hugging Face file; quantised ones as float32.

    Raises:
      ConfigError: no readable GGUF file, a tensor of another model, or of a type that is not known.
    """
    tensor_names(path)
    import gguf

    config, out = read_config(path), {}
    interleaved = metadata(path, "general.architecture") == "llama"
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }
    for t in reader(path).tensors:
        name = file_name(t.name)
        if name is None:
            continue
        try:
            value = gguf.quants.dequantize(t.data, t.tensor_type)
        except (NotImplementedError, ValueError) as e:
            kind = f"{t.name} of type {t.tensor_type.name}"
            raise ConfigError("weights", kind, "a type that gguf can dequantise") from e
        part = t.name.split(".")[-2]
        if interleaved and part in heads:
            value = by_halves(value, heads[part])
        out[name] = value
    return out


def by_halves(w: Float[ndarray, "O *I"], heads: int) -> Float[ndarray, "O *I"]:
    """Rows of each head in the order 0, 2, 4, .., 1, 3, 5, ..: neighbours become halves of the head."""
    pairs = w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:])
    return pairs.swapaxes(1, 2).reshape(w.shape)


def read_config(path: str | pathlib.Path) -> dict[str, Any]:
    """The config.json that a file's metadata and tensors come to; `model_type` says the family.

    Raises:
      ConfigError: no readable GGUF file, or a field whose value is not honoured, by its name.
    """
    tensors = {t.name: t for t in reader(path).tensors}
    kind = metadata(path, "general.architecture")
    if kind not in ARCHITECTURES:
        raise ConfigError("general.architecture", kind, "one of " + ", ".join(ARCHITECTURES))

    def said(name: str, default: object = None) -> Any:
        return metadata(path, f"{kind}.{name}", default)

    for field in reader(path).fields:
        known = field.removeprefix(f"{kind}.") in _READ
        if field.startswith(f"{kind}.") and not known and said(field.removeprefix(f"{kind}.")):
            want = f"no such field, for {kind}"
            raise ConfigError(field, metadata(path, field), want)
    for name in ("block_count", "embedding_length", "feed_forward_length", "attention.head_count"):
        if type(said(name)) is not int or said(name) < 1:
            raise ConfigError(f"{kind}.{name}", said(name), "a whole number, at least 1")
    if "token_embd.weight" not in tensors:
        raise ConfigError("weights", "without token_embd.weight", "a language model's tensors")
    width, heads = said("embedding_length"), said("attention.head_count")
    head_dim = said("attention.key_length", width // heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if said(name, head_dim) != head_dim:
            raise ConfigError(f"{kind}.{name}", said(name), f"{head_dim}, that of a head")
    out = {
        "model_type": kind,
        "vocab_size": int(tensors["token_embd.weight"].shape[-1]),
        "hidden_size": width,
        "intermediate_size": said("feed_forward_length"),
        "num_hidden_layers": said("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": said("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": said("context_length", 2048),
        "rms_norm_eps": _short(said("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": _short(said("rope.freq_base", 10_000.0)),
        "rope_scaling": _scaling(path, kind),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    window, q_bias = said("attention.sliding_window"), "blk.0.attn_q.bias" in tensors
    if kind == "llama":
        out |= {"attention_bias": q_bias}
        if window:  # Mistral's, which llama.cpp writes as llama
            out |= {"model_type": "mistral", "sliding_window": window}
    elif window:
        out |= {"use_sliding_window": True, "sliding_window": window}
    return out


def _short(value: float) -> float:
    """The shortest number that float32 cannot tell from the file's: 1e-5, not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _scaling(path: str | pathlib.Path, kind: str) -> dict[str, object] | None:
    """The rope_scaling of a file: linear by its fields, llama3 by the tensor of factors."""
    how = metadata(path, f"{kind}.rope.scaling.type", "none")
    if how == "linear":
        factor = metadata(path, f"{kind}.rope.scaling.factor", 1.0)
        return {"rope_type": "linear", "factor": _short(factor)}
    if how != "none":
        raise ConfigError(f"{kind}.rope.scaling.type", how, "one of none, linear")
    tensor = next((t for t in reader(path).tensors if t.name == _ROPE_FACTORS), None)
    if tensor is None:
        return None
    # Llama 3's files keep by what each frequency is divided, and not how that came about.
    factors = np.asarray(tensor.data, np.float32)
    base = _short(metadata(path, f"{kind}.rope.freq_base", 10_000.0))
    guess = Rotary(base, scaling="llama3", factor=_short(float(factors.max())))
    plain = Rotary(base)
    want = frequencies(plain, 2 * len(factors)) / frequencies(guess, 2 * len(factors))
    if not np.allclose(factors, want, rtol=1e-4):
        text = "low and high factors 1 and 4 of 8192 positions, as in Llama 3.1 and 3.2"
        raise ConfigError(_ROPE_FACTORS, factors.round(3).tolist(), text)
    return {
        "rope_type": "llama3",
        "factor": guess.factor,
        "low_freq_factor": guess.low_freq_factor,
        "high_freq_factor": guess.high_freq_factor,
        "original_max_position_embeddings": guess.original_positions,
    }
