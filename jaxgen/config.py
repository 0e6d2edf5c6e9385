"""Checks of ml_collections configs: one clear line for each bad field, before any compilation."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import ml_collections

from jaxgen.errors import ConfigError

Config: TypeAlias = ml_collections.ConfigDict
Rule = tuple[Callable[[Any], bool], str]

POSITIVE: Rule = (lambda v: v > 0, "above 0")
NON_NEGATIVE: Rule = (lambda v: v >= 0, "0 or more")
FRACTION: Rule = (lambda v: 0 <= v < 1, "at least 0 and below 1")


def at_least(n: int) -> Rule:
    """The number n or more."""
    return (lambda v: v >= n, f"at least {n}")


def one_of(*values: Any) -> Rule:
    """One of these values."""
    return (lambda v: v in values, "one of " + ", ".join(map(str, values)))


def get(config: Config, path: str) -> Any:
    """The value at a dotted path.

    Raises:
      ConfigError: if the config has no such field.
    """
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, ml_collections.ConfigDict) or part not in value:
            raise ConfigError(path, None, "a field of this name in the config file")
        value = value[part]
    return value


def some_of(*values: Any) -> Rule:
    """One or more of these values, none twice."""
    return (
        lambda v: v and set(v) <= set(values) and len(set(v)) == len(v),
        "some of " + ", ".join(map(str, values)) + ", each once",
    )


def check(config: Config, rules: Mapping[str, Rule]) -> None:
    """Applies a rule to each dotted field; the first that fails raises ConfigError."""
    for path, (test, allowed) in rules.items():
        value = get(config, path)
        try:
            ok = bool(test(value))
        except TypeError:
            ok = False
        if not ok:
            raise ConfigError(path, value, allowed)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for k, v in config.items():
        if isinstance(v, Mapping):
            flat |= flatten(v, f"{prefix}{k}.")
        else:
            flat[prefix + k] = v
    return flat


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: tuple[str, ...] = ()
) -> list[str]:
    """Lines `field: old -> new` for fields that differ, but for those under a prefix to ignore."""
    a, b = flatten(old), flatten(new)
    missing = "(absent)"
    return [
        f"{k}: {a.get(k, missing)!r} -> {b.get(k, missing)!r}"
        for k in sorted(a.keys() | b.keys())
        if a.get(k, missing) != b.get(k, missing) and not k.startswith(ignore)
    ]


def to_json(config: Config) -> str:
    """Stable text of a config: sorted keys, tuples as lists."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"
