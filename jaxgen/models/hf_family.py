"""How Hugging Face stores one family of models: its config.json and the names of its tensors.

Every field of config.json that changes what a model computes is honoured or refused by name. One that is
missing has the default of the family's configuration class; one that is unknown here may be off (null,
false, empty) or harmless.

Files differ in more than the family: wrappers (`module.`, `model.`, `_orig_mod.`) or a missing
`transformer.` at the front, `gamma` and `beta` of old BERTs, buffers, copies of tied weights, heads of
fine-tuned models. `Family.canonical` brings all to the names of the family's table.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Generic, TypeVar

from jaxgen.errors import ConfigError
from jaxgen.models.hf_fields import (
    HARMLESS,
    NEUTRAL,
    REASONS,
    UNSAID,
    Arguments,
    Field,
    Raw,
    is_off,
)
from jaxgen.nn.rotary import Rotary
from jaxgen.nn.transformer_config import TransformerConfig

C = TypeVar("C")

# Heads that stand beside a backbone. Those of `OTHER_HEADS` are none of our models' and are not read.
OTHER_HEADS = re.compile(
    r"(classifier|classification_head|score|qa_outputs|multiple_choice_head|v_head|summary"
    r"|cls\.seq_relationship)\..*"
)
_HEADS = re.compile(rf"{OTHER_HEADS.pattern}|(lm_head|cls)\..*")
# Put into names by torch.compile, FSDP and activation checkpointing.
_INSERTED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Last parts of names: of our parameters, and in files.
_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
# What a config.json need not keep, because it changes no number of the trained model.
_RUNTIME = {"dropout": 0.0, "init_std": 0.0, "remat": False, "scan": False, "dtype": "float32"}


@dataclasses.dataclass(frozen=True)
class Family(Generic[C]):
    """One family's table.

    Attributes:
      model_type: of config.json.
      config_type: the class of our config, and of no other family's.
      config: the constructor of such a config.
      module: (config, rngs=rngs) -> a fresh model.
      fields: of config.json.
      tensors: config -> {module of ours: module in the file}; `{}` takes the number of a block.
      prefix: what the names of the backbone begin with.
      anchor: a name behind it that tells where the backbone is.
      aliases: other names that the configuration class takes for fields.
      unused: fields that this family does not look at.
      extras: arguments of `config` -> what is written beside the fields.
      copies: (copy that a file may hold of a tied weight, or hold in its place; that weight).
      ignored: regular expression of names that are not read.
      conv1d: modules whose names begin so hold matrices as [in, out]; PyTorch's Linear as [out, in].
      stacks: the `TransformerConfig`s of a config.
    """

    model_type: str
    config_type: type[C]
    config: Callable[..., C]
    module: Callable[..., Any]
    fields: tuple[Field, ...]
    tensors: Callable[[C], Mapping[str, str]]
    prefix: str
    anchor: str
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: Set[str] = frozenset()
    extras: Callable[[Arguments], Arguments] = lambda arguments: {}
    copies: tuple[tuple[str, str], ...] = ()
    ignored: str = ""
    conv1d: str | None = None
    stacks: tuple[str, ...] = ("stack",)

    @property
    def defaults(self) -> dict[str, Any]:
        """The fields that are read, with the defaults of the configuration class."""
        return {name: value for field in self.fields for name, value in field.defaults.items()}

    def complete(self, raw: Raw) -> dict[str, Any]:
        """The fields by their own names, with defaults.

        Raises:
          ConfigError: a field that would change the result and is not known.
        """
        out = self.defaults
        known = set(out)
        for name, value in raw.items():
            ours = self.aliases.get(name, name)
            if ours in known:
                if raw.get(ours, value) != value:
                    want = f"{ours}'s value, {raw[ours]!r}, or no such field"
                    raise ConfigError(name, value, want)
                if value is None and out[ours] is UNSAID:
                    raise ConfigError(name, value, "a value, or no such field")
                out[ours] = value
            elif not (
                name.startswith("_")
                or name in HARMLESS
                or name in self.unused
                or is_off(value)
                or NEUTRAL.get(name) == value
            ):
                advice = f"no such field for {self.model_type}; delete it from config.json if it changes nothing"
                raise ConfigError(name, value, REASONS.get(name, advice))
        return out

    def read(self, raw: Raw, names: Set[str]) -> C:
        """The config that a config.json describes.

        Args:
          names: of the file's tensors, as in the table: they tell which heads there are.

        Raises:
          ConfigError: names the field whose value is not honoured.
        """
        c = self.complete(raw)
        arguments: Arguments = {}
        said: dict[str, str] = {}
        for field in self.fields:
            part = field.read(c, names)
            arguments |= part
            said |= dict.fromkeys(part, next(iter(field.defaults)))
        heads, width = arguments["heads"], arguments["width"]
        if not arguments.get("head_dim") and width % heads:
            raise ConfigError(said["heads"], heads, f"a divisor of {said['width']}, {width}")
        return self.config(**arguments)

    def write(self, config: C) -> dict[str, Any]:
        """The config.json of a config.

        Raises:
          ConfigError: names what the config has and the family's config.json cannot say.
        """
        arguments = vars(getattr(config, self.stacks[0])) | vars(config)
        out = {"model_type": self.model_type, **self.extras(arguments)}
        for field in self.fields:
            out |= field.write(arguments)
        again = self.read(out, {f"{name}.weight" for name in self.tensors(config).values()})
        ours, read = self._said(config), self._said(again)
        for name, value in ours.items():
            if value != read[name]:
                want = f"{read[name]!r}, all that config.json can say of {self.model_type}"
                raise ConfigError(name, value, want)
        return out

    def _said(self, config: C) -> dict[str, Any]:
        """What a config.json has to say: a config's fields, and those of its stacks."""
        out = {n: v for n, v in vars(config).items() if n not in self.stacks}
        for stack in self.stacks:
            fields = vars(_plain(getattr(config, stack)))
            out |= {f"{stack}.{name}": value for name, value in fields.items()}
        return out

    def file_name(self, config: C, path: str) -> tuple[str, bool]:
        """(name in the file, whether the matrix is transposed there) of one of our parameters.

        Raises:
          KeyError: for a path that the table does not have.
        """
        module, _, leaf = path.rpartition("/")
        number = re.search(r"(?<=blocks/)\d+", module)
        key = re.sub(r"(?<=blocks/)\d+", "{}", module)
        theirs = self.tensors(config)[key].format(number and number[0])
        plain = self.conv1d is not None and theirs.startswith(self.conv1d)
        return f"{theirs}.{_LEAVES[leaf]}", leaf == "kernel" and not plain

    def unread(self, name: str) -> bool:
        """Whether a tensor is a buffer, or of a head that our models do not have."""
        return bool(re.fullmatch(self.ignored, name) or OTHER_HEADS.fullmatch(name))

    def canonical(self, names: Iterable[str]) -> dict[str, str]:
        """{name in the file: name in the table} of one model's tensors.

        Raises:
          ConfigError: two models in the file, or two tensors for one name.
        """
        base, anchor = self.prefix, self.anchor
        plain = {n: _INSERTED.sub("", n) for n in sorted(names)}
        for n, p in plain.items():
            old = re.fullmatch(r"(.*\bLayerNorm)\.(gamma|beta)", p)
            if old:
                plain[n] = old[1] + (".weight" if old[2] == "gamma" else ".bias")
        ends = {p.removesuffix(anchor) for p in plain.values() if f".{p}".endswith(f".{anchor}")}
        if len(ends) > 1:
            raise ConfigError("weights", f"several models: {sorted(ends)}", "one model in a folder")
        guess = base if any(p.startswith(base) for p in plain.values()) else ""
        inner = ends.pop() if ends else guess
        # T5's classifiers have a `transformer.` of their own, its other models none.
        outer = inner.removesuffix(base or "transformer.")
        out: dict[str, str] = {}
        seen: dict[str, str] = {}
        for n, p in plain.items():
            rest = p.removeprefix(outer)
            if not _HEADS.fullmatch(rest) and p.startswith(inner):
                rest = base + p.removeprefix(inner)
            if rest in seen:
                raise ConfigError("weights", f"{seen[rest]} and {n}", "one tensor for each name")
            seen[rest] = n
            out[n] = rest
        return out


def _plain(stack: TransformerConfig) -> TransformerConfig:
    """A stack without what is not saved, and with defaults written out."""
    scale = stack.head_dim**-0.5 if stack.scale is None else stack.scale
    windows = stack.windows if any(stack.windows) else ()
    changes: dict[str, Any] = {**_RUNTIME, "scale": scale, "windows": windows}
    if stack.rotary is not None:
        rotary = stack.rotary
        kept = {"none": (), "linear": ("factor",), "llama3": tuple(vars(rotary))}[rotary.scaling]
        said = {
            n: v for n, v in vars(rotary).items() if n in ("base", "interleaved", "scaling", *kept)
        }
        changes["rotary"] = Rotary(**{**said, "dim": rotary.dim or stack.head_dim})
    if not stack.relative_buckets:
        changes["relative_distance"] = 128
    if not stack.experts:
        changes |= {"expert_every": 2, "expert_slots": 0, "capacity_factor": 0.0}
    return dataclasses.replace(stack, **changes)
