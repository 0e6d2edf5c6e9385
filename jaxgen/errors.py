"""Errors that launchers print as one line: what a user asked for (exit code 2), how a run failed (1)."""

from typing import Any


class ConfigError(ValueError):
    """A field has a value that is not allowed."""

    def __init__(self, field: str, value: Any, allowed: str):
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


def shown(value: Any) -> str:
    """`repr`, short enough for an error's line."""
    try:
        return shorten(repr(value))
    except Exception:  # of an int with too many digits, or of an object of the config file's own
        return f"<{type(value).__name__}>"


def shorten(text: str, most: int = 200) -> str:
    """On one line, and cut in the middle where it is longer than `most`."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
