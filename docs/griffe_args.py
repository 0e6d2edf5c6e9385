"""Docstrings of `__init__` here begin with `Args:` on their first line; griffe wants what follows indented."""

import re
from typing import Any

import griffe

SECTION = re.compile(r"(Raises|Returns|Yields|Attributes):$")


class InitArgs(griffe.Extension):
    """Indents the lines below a first line `Args:`, up to the next section."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Called for every function that griffe reads."""
        if func.docstring and func.docstring.value.startswith("Args:\n"):
            func.docstring.value = indent(func.docstring.value)


def indent(text: str) -> str:
    """The text with its first section indented."""
    first, *rest = text.splitlines()
    end = next((i for i, line in enumerate(rest) if SECTION.match(line)), len(rest))
    inside = [f"    {line}" if line else "" for line in rest[:end]]
    return "\n".join([first, *inside, *rest[end:]])
