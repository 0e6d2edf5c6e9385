"""Checks of ml_collections configs: one clear line for each bad field, before any compilation.

`FIELDS` has the rule of every field whose name means the same wherever it occurs. A study says which
fields it reads and what it allows where names alone do not tell (`check_fields`).
"""

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import ml_collections

from jaxgen.errors import ConfigError, shown

Config: TypeAlias = ml_collections.ConfigDict
Rule = tuple[Callable[[Any], bool], str]


def integer(low: int, high: int) -> Rule:
    """A whole number from low to high."""
    return (
        lambda v: type(v) is int and low <= v <= high,
        f"at least {low} and at most {high}, a whole number",
    )


def number(low: float, high: float) -> Rule:
    """A number from low to high, whole or not; neither NaN nor infinite."""
    return (lambda v: _real(v) and low <= v <= high, f"{low:g} to {high:g}")


def positive(low: float = 1e-9, high: float = 1e9) -> Rule:
    """A number above 0 that single precision can divide by."""
    return (lambda v: _real(v) and low <= v <= high, f"above 0 ({low:g} to {high:g})")


def _real(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


NON_NEGATIVE: Rule = (lambda v: _real(v) and 0 <= v <= 1e9, "0 or more (at most 1e+09)")
POSITIVE = positive()
FRACTION: Rule = (lambda v: _real(v) and 0 <= v < 1, "at least 0 and below 1")
SHARE: Rule = (lambda v: _real(v) and 0 < v <= 1, "above 0 and at most 1")
FLAG: Rule = (lambda v: isinstance(v, bool), "True or False")


def _text(value: object) -> bool:
    # A name of a file at most, in bytes; surrogates are what Python makes of those that are not UTF-8.
    if not isinstance(value, str) or "\0" in value:
        return False
    raw = value.encode("utf-8", "surrogateescape")
    return len(raw) < 4096 and all(len(part) < 256 for part in raw.split(b"/"))


TEXT: Rule = (_text, "text of less than 4096 bytes, 256 between two slashes")
FREE_TEXT: Rule = (lambda v: isinstance(v, str), "text")


def at_least(n: int) -> Rule:
    """The whole number n or more, as far as a signed word of 32 bits goes."""
    return integer(n, 2**31 - 1)


def one_of(*values: object) -> Rule:
    """One of these values."""
    return (
        lambda v: any(type(v) is type(x) and v == x for x in values),
        "one of " + ", ".join(map(str, values)),
    )


def some_of(*values: str) -> Rule:
    """One or more of these values, none twice."""
    return (
        lambda v: _sequence(v) and bool(v) and set(v) <= set(values) and len(set(v)) == len(v),
        "some of " + ", ".join(values) + ", each once",
    )


def many(rule: Rule, words: str, *, least: int = 1, most: int = 1024, once: bool = False) -> Rule:
    """A tuple of values that each pass `rule`; `once` allows no value twice."""
    return (
        lambda v: (
            _sequence(v)
            and least <= len(v) <= most
            and all(rule[0](x) for x in v)
            # Runs are named after numbers, as `g` writes them.
            and not (once and len({f"{x:g}" for x in v}) < len(v))
        ),
        words,
    )


def _sequence(value: object) -> bool:
    return isinstance(value, tuple | list)


# Sizes are bounded so that none overflows, and no single one asks for more memory than machines have.
WIDTH = integer(1, 65_536)
DEPTH = integer(1, 1024)
SOME_DEPTH = integer(0, 1024)
STEPS = integer(1, 10**9)
SOME_STEPS = integer(0, 10**9)
ROWS = integer(10, 10**9)
TEMPERATURE = positive(1e-4, 1e4)
RATE = positive(1e-12, 1e4)
AXIS: Rule = (
    lambda v: type(v) is int and (v == -1 or 1 <= v <= 2**20),
    "-1 (what the other axes leave), or at least 1",
)
NGRAMS = many(integer(-1, 2**16), "one or more of -1, 0, 1, ..., each once", once=True)
NAMES = many(TEXT, "a tuple of names", least=0)
# Keys hold 64 bits; room for the runs and the judges that count on from the first seed.
SEED = integer(0, 2**63 - 2**24)

# By dotted path, or by the last part of it. The first that fits counts.
FIELDS: dict[str, Rule] = {
    "seed": SEED,
    "seeds": integer(1, 2**16),
    "mesh.data": AXIS,
    "mesh.fsdp": AXIS,
    "mesh.expert": AXIS,
    "mesh.model": AXIS,
    "mesh.host_devices": integer(0, 1024),
    "mesh.slices": integer(0, 2**12),
    "mesh.processes": integer(0, 2**16),
    "mesh.process_id": integer(-1, 2**16),
    "mesh.coordinator": TEXT,
    "mesh.topology": TEXT,
    "train.keep": integer(1, 10**6),
    "train.restart": FLAG,
    "ascent.keep": SHARE,
    "ascent.count": at_least(2),
    "ascent.depth": SOME_DEPTH,
    "sample.count": integer(2, 10**8),
    "edit.count": integer(1, 10**6),
    "edit.keywords": FREE_TEXT,
    "operators.keywords": integer(0, 10**5),
    "operators.depth": SOME_DEPTH,
    "placement.tokens": STEPS,
    "placement.threshold": number(1.0, 1e9),
    "placement.average": FRACTION,
    "dts.threshold": number(0.0, 1.0),
    "prior.gan_steps": integer(1, 10**7),
    "schedule.num_steps": integer(1, 10**6),
    # Sizes of networks.
    **dict.fromkeys(("width", "hidden", "encoder_width", "decoder_width"), WIDTH),
    **dict.fromkeys(("denoiser_width", "latent_dim"), WIDTH),
    **dict.fromkeys(("depth", "encoder_depth", "decoder_depth", "denoiser_depth"), DEPTH),
    **dict.fromkeys(("heads", "encoder_heads", "decoder_heads", "expert_every"), DEPTH),
    **dict.fromkeys(("k", "slots", "patch", "draws"), integer(1, 4096)),
    "lora_rank": integer(0, 4096),
    "features": integer(2, 65_536),
    "blocks": integer(1, 64),
    "experts": integer(2, 4096),
    "multipliers": many(integer(1, 64), "whole numbers above 0, at most 64", most=16),
    "num_t": integer(1, 4096),
    # Data.
    "size": integer(0, 4096),
    "channels": one_of(0, 1, 3),
    "vocab_size": integer(8, 2**24),
    "source_vocab_size": integer(0, 2**24),
    "max_tokens": integer(2, 2**16),
    "train_tokens": integer(0, 2**16),
    "context": integer(2, 2**20),
    **dict.fromkeys(("limit", "max_words"), at_least(0)),
    **dict.fromkeys(("valid_fraction", "test_fraction"), FRACTION),
    **dict.fromkeys(("train", "valid", "test", "files", "frozen"), NAMES),
    **dict.fromkeys(("path", "name", "encoder_path", "decoder_path", "lm_path", "tokenizer"), TEXT),
    "encoder": TEXT,
    **dict.fromkeys(("text_field", "label_field", "alphabet"), FREE_TEXT),
    **dict.fromkeys(("text", "sentiment", "tense", "formality", "person"), FREE_TEXT),
    # Training.
    **dict.fromkeys(("steps", "reverse_steps", "train_steps", "edit_steps", "max_steps"), STEPS),
    **dict.fromkeys(("decay_steps", "log_every", "save_every", "eval_every", "every"), STEPS),
    **dict.fromkeys(("profile_steps", "eval_windows", "horizon", "stages", "cycles"), STEPS),
    **dict.fromkeys(("warmup", "anneal_steps", "encoder_warmup", "shared_steps"), SOME_STEPS),
    "profile_at": integer(-1, 10**9),
    **dict.fromkeys(("batch_size", "accumulate"), integer(1, 2**20)),
    "learning_rate": RATE,
    **dict.fromkeys(("clip", "final", "weight_decay"), NON_NEGATIVE),
    "ema_decay": FRACTION,
    **dict.fromkeys(("dropout", "word_dropout", "token_deletion_rate", "mask_rate"), FRACTION),
    **dict.fromkeys(("label_smoothing", "smoothing"), FRACTION),
    **dict.fromkeys(("remat", "scan", "pre_norm", "non_autoregressive", "vader"), FLAG),
    **dict.fromkeys(("adaptive_t", "noise_free_weights"), FLAG),
    "dtype": one_of("float32", "bfloat16"),
    "optimizer": one_of("adamw", "adafactor"),
    "train.schedule": one_of("constant", "cosine", "rsqrt"),
    # Weights of losses, and what else has a scale.
    **dict.fromkeys(
        ("mse_weight", "pad_weight", "regressor_weight", "length_weight"), NON_NEGATIVE
    ),
    **dict.fromkeys(("balance_weight", "z_weight"), NON_NEGATIVE),
    **dict.fromkeys(("ngram_factor", "ce_factor", "free_bits", "beta", "penalty"), NON_NEGATIVE),
    **dict.fromkeys(("noise", "edit_noise", "decoder_noise", "eta", "strength"), NON_NEGATIVE),
    **dict.fromkeys(("capacity_factor", "receive_capacity_factor", "slack"), NON_NEGATIVE),
    "max_megabytes": NON_NEGATIVE,
    "lora_alpha": POSITIVE,
    "pretrained_rate": POSITIVE,
    "diffusion_weight": POSITIVE,
    "betas": many(POSITIVE, "numbers above 0, each once", once=True),
    "decoder_std": positive(1e-6, 1e6),
    "sigma_0": (lambda v: _real(v) and (v == 0 or 1e-6 <= v <= 1e6), "0 or more (0, or 1e-06 up)"),
    **dict.fromkeys(("beta_min", "beta_max"), positive(1e-9, 1e4)),
    **dict.fromkeys(("temperature", "start", "end"), TEMPERATURE),
    **dict.fromkeys(("rate", "snr", "rtol", "atol"), RATE),
    "t_edit": SHARE,
    **dict.fromkeys(("eisl_ngrams", "ngrams"), NGRAMS),
    "eisl.weights": many(NON_NEGATIVE, "no number, or one of 0 or more for each n-gram", least=0),
    **dict.fromkeys(("selection.every", "selection.start_every", "selection.rows"), SOME_STEPS),
    "levels": many(number(0.0, 1.0), "numbers from 0 to 1, each once", once=True),
    "fused_bytes": integer(0, 2**40),
    # Choices.
    "schedule.kind": one_of("linear", "cosine", "constant", "vp_sde"),
    "weighting": one_of("simple", "elbo"),
    "alignment": one_of("kl", "joint"),
    "latent_norm": one_of("none", "running"),
    "sampler": one_of("ddim", "ancestral", "ode"),
    "prior.kind": one_of("gan", "gaussian"),
    "dts.decay": one_of("exponential", "linear"),
    "noise.start": one_of("noisy", "clean"),
    **dict.fromkeys(("test_rows", "probe_rows", "tune_count", "evaluate.count"), ROWS),
}


def get(config: Config, path: str) -> Any:
    """The value at a dotted path.

    Raises:
      ConfigError: if the config has no such field, or it is a placeholder that nobody has filled.
    """
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, ml_collections.ConfigDict) or part not in value:
            raise ConfigError(path, None, "a field of this name in the config file")
        value = _item(value, part, path)
    return value


def _item(config: Config, key: str, path: str) -> Any:
    try:
        return config[key]
    except ml_collections.config_dict.RequiredValueError as e:
        raise ConfigError(path, None, "a value; the config file leaves it open") from e


def leaves(config: Config, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted path, value) of every field that is no section."""
    for key in config:
        path = f"{prefix}{key}"
        value = _item(config, key, path)
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def paths(names: Mapping[str, str]) -> list[str]:
    """{"": "seed", "train": "steps keep"} -> ["seed", "train.steps", "train.keep"]."""
    return [f"{s}.{n}" if s else n for s, fields in names.items() for n in fields.split()]


def check_fields(config: Config, names: Mapping[str, str], rules: Mapping[str, Rule]) -> None:
    """Checks that a study's fields are there, and every field that is.

    Args:
      names: the fields that the study reads, by section; see `paths`.
      rules: by dotted path, what the study allows where `FIELDS` has no rule or another.

    Raises:
      ConfigError: for the first field that is missing, unknown, or has a value that is not allowed.
    """
    wanted = paths(names)
    for path in wanted:
        if isinstance(get(config, path), ml_collections.ConfigDict):
            raise ConfigError(path, "a section", "a value")
    for path, value in leaves(config):
        rule = rules.get(path) or FIELDS.get(path) or FIELDS.get(path.rpartition(".")[2])
        if rule is None:
            near = difflib.get_close_matches(path, set(wanted) - {path}, 1)
            raise ConfigError(
                path, value, "no field of this name" + "".join(f"; {n} is one" for n in near)
            )
        _apply(rule, path, value)


def check(config: Config, rules: Mapping[str, Rule]) -> None:
    """Applies a rule to each dotted field; the first that fails raises ConfigError."""
    for path, rule in rules.items():
        _apply(rule, path, get(config, path))


def _apply(rule: Rule, path: str, value: object) -> None:
    test, allowed = rule
    try:
        ok = bool(test(value))
    except (TypeError, ValueError, OverflowError):
        ok = False
    if not ok:
        raise ConfigError(path, value, allowed)


def flatten(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, object] = {}
    for k, v in config.items():
        if isinstance(v, Mapping):
            flat |= flatten(v, f"{prefix}{k}.")
        else:
            flat[prefix + k] = v
    return flat


def differences(
    old: Mapping[str, object], new: Mapping[str, object], ignore: tuple[str, ...] = ()
) -> list[str]:
    """Lines `field: old -> new` for fields that differ, but for those under a prefix to ignore."""
    a, b = flatten(old), flatten(new)
    missing = "(absent)"
    return [
        f"{k}: {shown(a.get(k, missing))} -> {shown(b.get(k, missing))}"
        for k in sorted(a.keys() | b.keys())
        if a.get(k, missing) != b.get(k, missing) and not k.startswith(ignore)
    ]


def to_json(config: Config) -> str:
    """Stable text of a config: sorted keys, tuples as lists."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
