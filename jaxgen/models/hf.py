"""Hugging Face model folders, read and written without PyTorch.

A folder holds `config.json` and `model.safetensors`, or shards with `model.safetensors.index.json`. Each
family's file has its table (`FAMILY`), of fields of config.json and of names of tensors. No pickle is read,
and no code of a folder is run.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import KeyPath
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors import numpy as st_numpy

from jaxgen.errors import ConfigError
from jaxgen.mesh import path_name
from jaxgen.models import bert, gguf, gpt2, gpt_neo, gptj, llama, opt, t5
from jaxgen.models.hf_family import Family
from jaxgen.nn.stacked import stack, unstack

Config: TypeAlias = gpt2.GPTConfig | bert.BertConfig | t5.T5Config
Model: TypeAlias = gpt2.GPT | bert.Bert | t5.T5
M = TypeVar("M", gpt2.GPT, bert.Bert, t5.T5)
FAMILIES: dict[str, Family[Any]] = {
    family.model_type: family
    for family in (
        *(gpt2.FAMILY, gpt_neo.FAMILY, gptj.FAMILY, opt.FAMILY, *llama.FAMILIES),
        *(bert.FAMILY, t5.FAMILY),
    )
}


def family_of(config: Config) -> Family[Any]:
    """The table of a config's family.

    Raises:
      ValueError: a config of none of `FAMILIES`.
    """
    for family in FAMILIES.values():
        if type(config) is family.config_type:
            return family
    raise ValueError(f"config is a {type(config).__name__}, allowed: one of {', '.join(FAMILIES)}")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
      ConfigError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError("folder", str(path), f"readable JSON ({e})") from e
    if not isinstance(content, dict):
        raise ConfigError("folder", str(path), "a JSON object")
    return content


def tensor_files(folder: pathlib.Path, name: str = "model") -> list[pathlib.Path]:
    """The safetensors files of a folder: one, or the shards of its index.

    Raises:
      ConfigError: names the file that is missing or cannot be read, or that lies elsewhere.
    """
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        patterns = (f"*{name}*.bin*", "*.pth", "*.pt")
        pickles = sorted({p.name for g in patterns for p in folder.glob(g) if p.is_file()})
        want = "a folder with safetensors weights"
        if pickles:
            want += (
                f" ({pickles[0]} is a pickle, which is not read: convert it to safetensors, where it is trusted, "
                "by transformers' AutoModel.from_pretrained(folder).save_pretrained(new_folder))"
            )
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


def read_config(folder: str | pathlib.Path, **options: object) -> Any:
    """The config of the model in a folder, without its weights; arguments and errors as in `load`.

    Its class is that of the folder's model type, such as `GPTConfig`, `LlamaConfig`, `BertConfig`.
    """
    folder = pathlib.Path(folder)
    if gguf.is_gguf(folder):
        raw, names = gguf.read_config(folder), gguf.tensor_names(folder)
        return _with(FAMILIES[raw["model_type"]].read(raw, names), options)
    path = folder / "config.json"
    if not os.path.isfile(path):
        ggufs = sorted(p.name for p in folder.glob("*.gguf")) if os.path.isdir(folder) else []
        want = "a folder with config.json"
        raise ConfigError("folder", str(folder), f"{want}, or {ggufs[0]} in it" if ggufs else want)
    raw = read_json(path)
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError("model_type", kind, "one of " + ", ".join(FAMILIES))
    family = FAMILIES[kind]
    names = set()
    for file in tensor_files(folder):
        with _open(file) as f:
            names |= set(f.keys())
    return _with(family.read(raw, set(family.canonical(names).values())), options)


def _with(config: Config, options: Mapping[str, object]) -> Config:
    """A config whose stacks have other options."""
    changed = {
        name: dataclasses.replace(getattr(config, name), **options)
        for name in family_of(config).stacks
    }
    return dataclasses.replace(config, **changed)


def make(config: Config, *, rngs: nnx.Rngs) -> Model:
    """A fresh model of a config."""
    return family_of(config).module(config, rngs=rngs)


def load(folder: str | pathlib.Path, **options: object) -> Model:
    """The model of a Hugging Face folder, by its `model_type` (one of `FAMILIES`), or of a GGUF file.

    Args:
      folder: with config.json and safetensors weights; or the path of a GGUF file (`jaxgen.models.gguf`).
      options: fields of `TransformerConfig` to set, such as dtype, remat, scan.

    Raises:
      ConfigError: not such a folder, an unknown model type, or weights that do not fit; the message
        lists missing, unexpected and mis-shaped names.
    """
    config = read_config(folder, **options)
    model = jax.eval_shape(lambda: make(config, rngs=nnx.Rngs(0)))
    folder = pathlib.Path(folder)
    return fill(model, gguf.read_tensors(folder) if gguf.is_gguf(folder) else read_tensors(folder))


def fill(model: M, tensors: Mapping[str, np.ndarray]) -> M:
    """A model (or its shapes) with the parameters of a file; float32.

    Raises:
      ConfigError: lists names that are missing, unexpected, mis-shaped or no floats, and copies of
        tied weights that differ.
    """
    family, config = family_of(model.config), model.config
    model = jax.eval_shape(unstack, model)  # in files, blocks lie side by side
    names = family.canonical(tensors)
    given = {names[n]: t for n, t in tensors.items()}
    in_file = {name: n for n, name in names.items()}
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(model)]
    used = {family.file_name(config, path)[0] for path in paths}
    copies = [(c, o) for c, o in family.copies if c in given and c not in used and o in used]
    for copy, original in copies:
        given.setdefault(original, given[copy])
    missing, wrong, other = [], [], []

    def place(path: KeyPath, a: PyTree) -> PyTree:
        name, transposed = family.file_name(config, path_name(path))
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
    unexpected = [n for name, n in in_file.items() if name not in known and not family.unread(name)]
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
    return stack(filled)


def tensors_of(model: Model) -> dict[str, np.ndarray]:
    """The model's parameters by their names in a file, on the host."""
    family, out = family_of(model.config), {}
    for path, a in jax.tree_util.tree_leaves_with_path(unstack(model)):
        name, transposed = family.file_name(model.config, path_name(path))
        value = np.asarray(a)
        out[name] = np.ascontiguousarray(value.T if transposed else value)
    return out


def save(
    model: Model,
    folder: str | pathlib.Path,
    *,
    shard_bytes: int = 5 * 10**9,
    config: Mapping[str, object] | None = None,
) -> None:
    """Writes config.json and safetensors, so that `load` and transformers read them.

    Args:
      shard_bytes: a file holds at most this much; more than one file brings an index.
      config: further fields of config.json, such as token ids.

    Raises:
      ConfigError: the model has something that the family's config.json cannot say.
    """
    described = family_of(model.config).write(model.config)
    text = json.dumps(described | dict(config or {}), indent=2) + "\n"
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(model)
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, value in tensors.items():
        if shards[-1] and size + value.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    where: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        several = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        file = several if len(shards) > 1 else single.name
        st_numpy.save_file(shard, folder / file, {"format": "pt"})
        where |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        total = {"total_size": sum(v.nbytes for v in tensors.values())}
        index.write_text(json.dumps({"metadata": total, "weight_map": where}, indent=2))
    # Of an earlier save in this folder.
    (single if len(shards) > 1 else index).unlink(missing_ok=True)
    (folder / "config.json").write_text(text)
