"""Errors that launchers print as one line: what a user asked for (exit code 2), how a run failed (1)."""

import numpy as np


class ConfigError(ValueError):
    """A field has a value that is not allowed."""

    def __init__(self, field: str, value: object, allowed: str):
        """Args:
        field: dotted path in the config, such as `train.steps`.
        value: what was given.
        allowed: what would be accepted, in words.
        """
        super().__init__(f"{field} is {shown(value)}, allowed: {allowed}")
        self.field = field


class RunError(RuntimeError):
    """A run cannot go on: numbers that are not finite, files that cannot be read or written."""


class UsageError(ConfigError):
    """The command line cannot be understood."""

    def __init__(self, message: str):
        ValueError.__init__(self, message)
        self.field = "command line"


def shown(value: object) -> str:
    """`repr`, short enough for an error's line."""
    try:
        return shorten(repr(value))
    except Exception:  # of an int with too many digits, or of an object of the config file's own
        return f"<{type(value).__name__}>"


def told(e: BaseException) -> str:
    """Kind and text of an exception, short enough for an error's line."""
    try:
        return shorten(f"{type(e).__name__}: {e}", 500)
    except Exception:  # of the text that the exception makes
        return type(e).__name__


def shorten(text: str, most: int = 200) -> str:
    """On one line, and cut in the middle where it is longer than `most`."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def require(name: str, ok: object, value: object, allowed: str) -> None:
    """One check of an argument, for options that may also be traced, such as an annealed temperature.

    Args:
      name: of the argument.
      ok: whether the value is allowed, such as `(value > 0) & (value < inf)`: `&`, not a chain of
        comparisons, so that it can be traced. A traced one passes: its value is not known yet.
      value: what was given.
      allowed: what would be accepted, in words.

    Raises:
      ValueError: not ok (not everywhere, of an array).
    """
    import jax

    if isinstance(ok, jax.core.Tracer) or np.all(np.asarray(ok)):
        return
    raise ValueError(f"{name} is {np.asarray(value).tolist()!r}, allowed: {allowed}")
