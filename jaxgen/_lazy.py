"""Packages whose modules and functions are imported when they are first used (PEP 562).

A package lists them once, as imports that only type checkers and readers follow:

    if TYPE_CHECKING:
        from jaxgen.losses import eisl
        from jaxgen.losses.eisl import eisl_loss

    __getattr__, __dir__, __all__ = _lazy.attach(__name__)

The list is read from the package's source, as SPEC 1 of Scientific Python reads it from a stub.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable


def attach(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package.

    Raises:
      ImportError: there is no source to read the list from.
    """
    where = _listed(package)
    names = sorted(where)

    def load(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, inside = where[name]
        found = importlib.import_module(module)
        value = getattr(found, inside) if inside else found
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: names, names


def _listed(package: str) -> dict[str, tuple[str, str]]:
    """Name -> the module that it is, or (module, name in it)."""
    spec = sys.modules[package].__spec__
    source = spec and spec.loader and getattr(spec.loader, "get_source", lambda _: None)(package)
    if not source:
        raise ImportError(f"{package} is lazy, and its source is not there", name=package)
    where = {}
    for block in ast.parse(source).body:
        if not (isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"):
            continue
        for line in block.body:
            if isinstance(line, ast.ImportFrom):
                for alias in line.names:
                    here = line.module == package
                    inside = (f"{package}.{alias.name}", "") if here else (line.module, alias.name)
                    where[alias.asname or alias.name] = (str(inside[0]), inside[1])
    return where
