"""Hugging Face model folders, read and written without PyTorch.

A folder holds `config.json` and `model.safetensors`, or shards with `model.safetensors.index.json`.
`hf_fields` and `hf_config` read config.json, `hf_names` has one table of tensor names for each model
type. No pickle is read, and no code of a folder is run.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors import numpy as st_numpy

from jaxgen.errors import ConfigError
from jaxgen.mesh import path_name
from jaxgen.nn import bert, gpt2, hf_names, t5
from jaxgen.nn.hf_config import Model, config_of, spec_of
from jaxgen.nn.hf_fields import kind_of, read_json
from jaxgen.nn.hf_names import Rules, file_name


def rules(model: Model) -> Rules:
    """The table of a model."""
    if isinstance(model, gpt2.GPT):
        return hf_names.gpt2_rules() if model.spec.kind == "gpt2" else hf_names.gpt_neo_rules()
    if isinstance(model, bert.Bert):
        return hf_names.bert_rules()
    return hf_names.t5_rules(model.spec.encoder.gated)


def kind_of_model(model: Model) -> str:
    """The model type that its config.json has."""
    if isinstance(model, gpt2.GPT):
        return model.spec.kind
    return "bert" if isinstance(model, bert.Bert) else "t5"


def tensor_files(folder: pathlib.Path, name: str = "model") -> list[pathlib.Path]:
    """The safetensors files of a folder: one, or the shards of its index.

    Raises:
      ConfigError: names the file that is missing or cannot be read, or that lies elsewhere.
    """
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickles = sorted(p.name for p in folder.glob(f"*{name}*.bin*") if p.is_file())
        want = "a folder with safetensors weights"
        if pickles:
            want += f" ({pickles[0]} is a pickle, which is not read: convert it to safetensors)"
        raise ConfigError("folder", str(single), want)
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ConfigError("folder", str(index), "an index with a weight_map")
    for file in places.values():
        inside = isinstance(file, str) and re.fullmatch(r"[^/\\\0]+\.safetensors", file)
        if not inside:
            raise ConfigError("folder", str(index), f"names of files in this folder, not {file!r}")
        if not (folder / file).is_file():
            raise ConfigError("folder", str(folder / file), f"all shards of {index.name}")
    return [folder / file for file in sorted(set(places.values()))]


def _open(path: pathlib.Path) -> Any:
    try:
        # bfloat16 has no numpy type of its own; the flax framework reads it as ml_dtypes.
        return safe_open(path, framework="flax")
    except (SafetensorError, OSError) as e:
        reason = " ".join(str(e).split())
        raise ConfigError("folder", str(path), f"a readable safetensors file ({reason})") from e


# Weights of 8 bits and fewer mean nothing without scales, which we have no place for.
FLOATS = ("float16", "bfloat16", "float32", "float64")
WANTED = "floats of 16, 32 or 64 bits; others need scales, which are not read"


def read_tensors(folder: pathlib.Path, name: str = "model") -> dict[str, np.ndarray]:
    """All tensors of a folder, by their names in its files.

    Raises:
      ConfigError: no such file, or one that cannot be read; it names the file, or the tensor.
    """
    out: dict[str, np.ndarray] = {}
    for path in tensor_files(folder, name):
        with _open(path) as f:
            for key in f.keys():  # noqa: SIM118
                if key in out:
                    raise ConfigError("folder", str(path), f"{key} in one of the shards only")
                kind = f.get_slice(key).get_dtype()
                try:
                    out[key] = np.asarray(f.get_tensor(key))
                except (SafetensorError, AttributeError, TypeError, ValueError) as e:
                    raise ConfigError("weights", f"{key} of type {kind}", WANTED) from e
    return out


def read_spec(folder: str | pathlib.Path, **options: Any) -> Any:
    """The spec of the model in a folder, without its weights; arguments and errors as in `load`."""
    folder = pathlib.Path(folder)
    path = folder / "config.json"
    if not os.path.isfile(path):
        raise ConfigError("folder", str(folder), "a folder with config.json")
    config = read_json(path)
    kind = kind_of(config)
    names: set[str] = set()
    for file in tensor_files(folder):
        with _open(file) as f:
            names |= set(f.keys())
    spec = spec_of(config, set(hf_names.canonical(names, kind).values()))
    stacks = ("encoder", "decoder") if kind == "t5" else ("stack",)
    changed = {name: dataclasses.replace(getattr(spec, name), **options) for name in stacks}
    return dataclasses.replace(spec, **changed)


def make(spec: Any, *, rngs: nnx.Rngs) -> Model:
    """A fresh model of a spec."""
    if isinstance(spec, gpt2.GPTConfig):
        return gpt2.GPT(spec, rngs=rngs)
    return (
        bert.Bert(spec, rngs=rngs) if isinstance(spec, bert.BertConfig) else t5.T5(spec, rngs=rngs)
    )


def load(folder: str | pathlib.Path, **options: Any) -> Model:
    """The model of a Hugging Face folder: GPT-2, GPT-Neo, BERT or T5, by its `model_type`.

    Args:
      folder: with config.json and safetensors weights.
      options: fields of `transformer.TransformerConfig` to set, such as dtype, remat, scan.

    Raises:
      ConfigError: not such a folder, an unknown model type, or weights that do not fit; the message
        lists missing, unexpected and mis-shaped names.
    """
    spec = read_spec(folder, **options)
    model = jax.eval_shape(lambda: make(spec, rngs=nnx.Rngs(0)))
    return fill(model, read_tensors(pathlib.Path(folder)))


def unread(name: str) -> bool:
    """Whether a tensor is a buffer, or of a head that our models do not have."""
    return bool(hf_names.IGNORED.fullmatch(name) or hf_names.OTHER_HEADS.fullmatch(name))


def fill(model: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """A model (or its shapes) with the parameters of a file; float32.

    Raises:
      ConfigError: lists names that are missing, unexpected, mis-shaped or no floats, and copies of
        tied weights that differ.
    """
    table = rules(model)
    names = hf_names.canonical(tensors, kind_of_model(model))
    given = {names[n]: t for n, t in tensors.items()}
    in_file = {name: n for n, name in names.items()}
    leaves = jax.tree_util.tree_leaves_with_path(model)
    used = {file_name(path_name(path), table)[0] for path, _ in leaves}
    copies = [(c, o) for c, o in hf_names.COPIES if c in given and c not in used and o in used]
    for copy, original in copies:
        given.setdefault(original, given[copy])
    missing, wrong, other = [], [], []

    def place(path: tuple[Any, ...], a: Any) -> Any:
        name, transposed = file_name(path_name(path), table)
        if name not in given:
            missing.append(name)
            return a
        value = given[name].T if transposed else given[name]
        if value.dtype.name not in FLOATS:
            other.append(f"{in_file.get(name, name)} {value.dtype.name}")
        elif value.shape != a.shape:
            want = a.shape[::-1] if transposed else a.shape
            text = f"{list(given[name].shape)} instead of {list(want)}"
            wrong.append(f"{in_file.get(name, name)} {text}")
        else:
            return jnp.asarray(value, jnp.float32)
        return a

    filled = jax.tree_util.tree_map_with_path(place, model)
    known = used | {copy for copy, _ in copies}
    unexpected = [n for name, n in in_file.items() if name not in known and not unread(name)]
    differing = [
        f"{in_file[copy]} from {original}"
        for copy, original in copies
        if not np.array_equal(given[copy], given[original])
    ]
    problems = [
        f"{what}: {', '.join(sorted(rows)[:8])}" + (" .." if len(rows) > 8 else "")
        for what, rows in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("mis-shaped", wrong),
            ("no floats", other),
            ("differing, though tied (tie_word_embeddings)", differing),
        )
        if rows
    ]
    if problems:
        want = WANTED if other else f"the names of {type(model).__name__}"
        raise ConfigError("weights", "; ".join(problems), want)
    return filled


def tensors_of(model: Model) -> dict[str, np.ndarray]:
    """The model's parameters by their names in a file, on the host."""
    table, out = rules(model), {}
    for path, a in jax.tree_util.tree_leaves_with_path(model):
        name, transposed = file_name(path_name(path), table)
        value = np.asarray(a)
        out[name] = np.ascontiguousarray(value.T if transposed else value)
    return out


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

    Raises:
      ConfigError: the model has something that the family's config.json cannot say.
    """
    text = json.dumps(config_of(model) | dict(config or {}), indent=2) + "\n"
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
        stale = "model.safetensors.index.json"
    else:
        where: dict[str, str] = {}
        for i, shard in enumerate(shards, 1):
            file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
            st_numpy.save_file(shard, folder / file, meta)
            where |= dict.fromkeys(shard, file)
        total = {"total_size": sum(v.nbytes for v in tensors.values())}
        index = json.dumps({"metadata": total, "weight_map": where}, indent=2)
        (folder / "model.safetensors.index.json").write_text(index)
        stale = "model.safetensors"
    (folder / stale).unlink(missing_ok=True)  # of an earlier save in this folder
    (folder / "config.json").write_text(text)
