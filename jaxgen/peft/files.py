"""LoRA adapters in the file format of the peft library: adapter_config.json, adapter_model.safetensors.

Every field of the config that changes the result is honoured or refused by name. Ranks and scales may
differ between layers (`rank_pattern`, `alpha_pattern`); with `use_rslora` the scale is alpha / sqrt(rank)
(Kalajdzievski, 2023). The matrices A [rank, in] and B [out, rank] are Linear weights, whichever way the
base model stores its matrix.
"""

import collections
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree
from safetensors.numpy import save_file

from jaxgen.errors import ConfigError
from jaxgen.models import hf
from jaxgen.models.hf_family import OTHER_HEADS
from jaxgen.models.hf_fields import is_off, rate, real, whole
from jaxgen.nn.stacked import stack, unstack
from jaxgen.peft import lora

N = TypeVar("N", int, float)
Config: TypeAlias = Mapping[str, Any]  # of an adapter_config.json
M = TypeVar("M")
_PREFIX = "base_model.model."
_TENSOR = re.compile(
    r"(base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])(\.default)?\.weight"
)
_WRAPPERS = re.compile(r"^((module|model|_orig_mod|transformer)\.)*")
# Where the number of a block stands in a name: what leads to it, and the number.
_STARTS = re.compile(r"(?:^|(?<=\.))(.*?)\.(\d+)(?=\.)")

# Fields that are read, with the defaults of peft's LoraConfig.
FIELDS: dict[str, Any] = {
    "peft_type": None,
    "r": 8,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "rank_pattern": None,
    "alpha_pattern": None,
    "use_rslora": False,
    "target_modules": None,
    "exclude_modules": None,
    "layers_to_transform": None,
    "layers_pattern": None,
    "modules_to_save": None,
    "init_lora_weights": True,
}
# A and B lie in the file, whichever way they began. (PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change the
# base model's weights when they begin, so that A and B alone are not the model.)
INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
HARMLESS = frozenset(
    """
    task_type auto_mapping base_model_name_or_path revision inference_mode peft_version
    fan_in_fan_out runtime_config megatron_core qalora_group_size loftq_config eva_config
    corda_config lora_ga_config velora_config
    """.split()  # noqa: SIM905
)
_REASONS = {
    "bias": "'none': biases of the base model are not replaced",
    "use_dora": "False: no DoRA",
    "lora_bias": "False: no bias in B",
}


def complete(raw: Config) -> dict[str, Any]:
    """The fields of an adapter_config.json, with defaults.

    Raises:
      ConfigError: a field or value that would change the result and is not known.
    """
    for field, value in raw.items():
        neutral = is_off(value) or (field == "bias" and value == "none")
        if field not in FIELDS and field not in HARMLESS and not neutral:
            advice = "no such field; delete it from adapter_config.json if it changes nothing"
            raise ConfigError(field, value, _REASONS.get(field, advice))
    c = {**FIELDS, **{field: value for field, value in raw.items() if field in FIELDS}}
    if c["peft_type"] != "LORA":
        raise ConfigError("peft_type", c["peft_type"], "LORA")
    saved = c["modules_to_save"] or []
    if not all(OTHER_HEADS.fullmatch(f"{m}.weight") for m in saved):
        want = "heads that are not read, such as classifier or score"
        raise ConfigError("modules_to_save", saved, want)
    init = c["init_lora_weights"]
    if not any(init is known or init == known for known in INITS):
        want = (
            f"one of {INITS}; peft's save_pretrained converts others, where it is given the start"
        )
        raise ConfigError("init_lora_weights", init, want)
    whole(c, "r")
    real(c, "lora_alpha")
    rate(c, "lora_dropout")
    for field in ("rank_pattern", "alpha_pattern"):
        pattern = c[field] or {}
        check = (lambda v: type(v) is int and v > 0) if field[0] == "r" else _is_number
        if not isinstance(pattern, dict) or not all(check(v) for v in pattern.values()):
            raise ConfigError(field, pattern, "numbers by names of modules")
        c[field] = pattern
    return c


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _match(field: str, pattern: str, module: str, *, suffix: bool = False) -> bool:
    """Whether a regular expression of the config matches a module, or the end of its dotted name."""
    try:
        whole_name = rf"(.*\.)?({pattern})" if suffix else pattern
        return re.fullmatch(whole_name, module) is not None
    except re.error as e:
        raise ConfigError(field, pattern, f"a regular expression ({e})") from e


def _by_pattern(c: Config, field: str, module: str, default: N) -> N:
    """The value of the first pattern that matches, as peft takes it."""
    for pattern, value in c[field].items():
        if _match(field, pattern, module, suffix=True):
            return value
    return default


def _listed(field: str, names: str | Iterable[str], module: str) -> bool:
    """Whether a field names a module: a regular expression, or ends of names."""
    if isinstance(names, str):
        return _match(field, names, module)
    return any(module == n or module.endswith(f".{n}") for n in names)


def left_out_by(c: Config, module: str) -> str | None:
    """The field of the config by which a module has no adapter; None where it has one."""
    if c["exclude_modules"] and _listed("exclude_modules", c["exclude_modules"], module):
        return "exclude_modules"
    targets, layers = c["target_modules"], c["layers_to_transform"]
    if targets and targets != "all-linear" and not _listed("target_modules", targets, module):
        return "target_modules"
    if layers is None or layers == []:
        return None
    patterns = c["layers_pattern"] or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for start in _STARTS.finditer(module):
            if _match("layers_pattern", pattern, start[1].rpartition(".")[2]):
                chosen = layers if isinstance(layers, list) else [layers]
                return None if int(start[2]) in chosen else "layers_to_transform"
    return "layers_to_transform"


def _check_targets(
    c: Config, found: Mapping[str, Mapping[str, PyTree]], places: Iterable[str]
) -> None:
    """Raises where the config and the tensors of the file disagree on which layers have adapters.

    Args:
      found: {layer of our model: the module of the file, and its A and B}.
      places: all layers of our model.
    """
    stacks = set()
    for place, row in found.items():
        field = left_out_by(c, row["module"])
        if field:
            want = f"with an adapter for {row['module']}, which is in the file"
            raise ConfigError(field, c[field], want)
        start = _STARTS.match(place)
        if start:
            stacks.add((start[1], row["module"].removesuffix(place)))
    if not c["target_modules"] or c["target_modules"] == "all-linear":
        return
    missing = [
        prefix + place
        for place in places
        for stack, prefix in sorted(stacks)
        if place not in found
        and place.startswith(f"{stack}.")
        and not left_out_by(c, prefix + place)
    ]
    if missing:
        want = f"adapters of all that target_modules means, {c['target_modules']}"
        raise ConfigError("adapter", f"without {', '.join(missing[:4])}", want)


def load(model: M, folder: str | pathlib.Path) -> M:
    """A copy of a plain model with the adapters of a peft folder, wrapped and not merged.

    The adapters may come from a model with a head (`transformer.h.0..`) or from a bare one (`h.0..`).
    Heads that our models do not have (`modules_to_save` of a classifier) are not read.

    Raises:
      ConfigError: no such folder, another kind of adapter, a field that is not honoured, or tensors
        that do not fit the model; the message names the field or the tensor.
    """
    folder = pathlib.Path(folder)
    path = folder / "adapter_config.json"
    if not os.path.isfile(path):
        raise ConfigError("folder", str(folder), "a folder with adapter_config.json")
    c = complete(hf.read_json(path))
    tensors = hf.read_tensors(folder, "adapter_model")
    prefix = hf.family_of(model.config).prefix  # type: ignore[attr-defined]
    base = _WRAPPERS.sub("", prefix)
    model = unstack(model)
    ours = {}
    for place, parent, name, layer in lora.layers(model, nnx.Linear):
        if _named(model, place):
            ours[_file_name(model, place)[0].removeprefix(prefix)] = parent, name, layer
    found: dict[str, dict[str, Any]] = {}
    strange = []
    for tensor, value in tensors.items():
        match = _TENSOR.fullmatch(tensor)
        module = match["module"] if match else ""
        place = _WRAPPERS.sub("", module).removeprefix(base)
        if match and place in ours:
            found.setdefault(place, {"module": module})[match["part"]] = value
            if value.dtype.name not in hf.FLOATS:
                raise ConfigError("adapter", f"{tensor} of type {value.dtype.name}", hf.WANTED)
        elif not OTHER_HEADS.fullmatch(tensor.removeprefix(_PREFIX)):
            strange.append(tensor)
    if strange or not found:
        raise ConfigError("adapter", sorted(strange)[:4], "A and B of layers of this model")
    _check_targets(c, found, ours)
    for place, row in found.items():
        parent, name, layer = ours[place]
        put(c, row, parent, name, layer)
    return stack(model)


def put(
    c: Config, row: Mapping[str, PyTree], parent: PyTree, name: str | int, layer: PyTree
) -> None:
    """Puts one layer's adapter into the model.

    Args:
      c: the config, from `complete`.
      row: the module's name in the file, and its A and B.

    Raises:
      ConfigError: a rank or shape that is not the config's.
    """
    module = row["module"]
    rank = _by_pattern(c, "rank_pattern", module, c["r"])
    alpha = float(_by_pattern(c, "alpha_pattern", module, c["lora_alpha"]))
    n_in, n_out = layer.kernel.shape
    for part, shape in (("A", (rank, n_in)), ("B", (n_out, rank))):
        if part not in row:
            raise ConfigError("adapter", f"{module} without lora_{part}", "both of A and B")
        if row[part].shape != shape:
            got = list(row[part].shape)
            raise ConfigError(
                f"lora_{part} of {module}", got, f"{list(shape)}, by r and rank_pattern"
            )
    if c["use_rslora"]:
        alpha = alpha * math.sqrt(rank)  # our scale is alpha / rank
    new = lora.LoRALinear(layer, rank, alpha, jax.random.key(0), dropout=c["lora_dropout"])
    new.a[...] = jnp.asarray(row["A"].T, jnp.float32)
    new.b[...] = jnp.asarray(row["B"].T, jnp.float32)
    lora.put(parent, name, new)


def save(model: nnx.Module, folder: str | pathlib.Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, as peft loads them.

    The model is one that `jaxgen.models.hf` can name (`hf.FAMILIES`), with wrapped layers. The
    most frequent rank and alpha become `r` and `lora_alpha`, others go to the patterns.

    Raises:
      ValueError: no wrapped layer, one wrapped more than once, or several dropout rates.
    """
    model = unstack(model)
    wrapped = list(lora.layers(model, lora.LoRALinear))
    for path, _, _, layer in wrapped:
        if len(list(layer.updates())) > 1:
            raise ValueError(f"layer {path} has several updates, allowed: one, or merge the first")
    rates = {layer.dropout for *_, layer in wrapped}
    if len(rates) != 1:
        raise ValueError(f"the layers' dropout rates are {sorted(rates)}, allowed: one rate")
    rank = collections.Counter(layer.rank for *_, layer in wrapped).most_common(1)[0][0]
    alpha = collections.Counter(layer.alpha for *_, layer in wrapped).most_common(1)[0][0]
    tensors, ranks, alphas, transposed = {}, {}, {}, True
    for path, _, _, layer in wrapped:
        name, transposed = _file_name(model, path)
        for part, value in (("A", layer.a), ("B", layer.b)):
            tensors[f"{_PREFIX}{name}.lora_{part}.weight"] = np.ascontiguousarray(
                np.asarray(value[...]).T
            )
        if layer.rank != rank:
            ranks[re.escape(name)] = layer.rank
        if layer.alpha != alpha:
            alphas[re.escape(name)] = layer.alpha
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "lora_dropout": rates.pop(),
        "target_modules": _targets(model, [_file_name(model, path)[0] for path, *_ in wrapped]),
        "fan_in_fan_out": not transposed,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _targets(model: nnx.Module, names: list[str]) -> list[str]:
    """Last parts of the names, where they mean these modules and no others; else the whole names."""
    last = sorted({n.rsplit(".", 1)[-1] for n in names})
    every = [
        _file_name(model, path)[0]
        for path, *_ in lora.layers(model, nnx.Linear)
        if _named(model, path)
    ]
    others = {
        n.rsplit(".", 1)[-1] for n in every
    }  # a wrapped layer's own is `base`, without a name
    return sorted(names) if others & set(last) else last


def _file_name(model: PyTree, path: str) -> tuple[str, bool]:
    name, transposed = hf.family_of(model.config).file_name(model.config, f"{path}/kernel")
    return name.removesuffix(".weight"), transposed


def _named(model: PyTree, path: str) -> bool:
    try:
        _file_name(model, path)
    except KeyError:
        return False
    return True
