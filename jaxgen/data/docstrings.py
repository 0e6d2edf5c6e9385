"""English prose that every machine has: paragraphs of the docstrings of installed Python packages.

One module is one document. What there is depends on the versions that are installed: record `digest` beside numbers.
"""

import ast
import hashlib
import importlib.util
import inspect
import pathlib
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence

from jaxgen.errors import ConfigError

STANDARD_LIBRARY = "stdlib"
PACKAGES = (STANDARD_LIBRARY, "numpy", "scipy", "jax", "flax", "optax")
_SKIPPED = {"tests", "test", "idlelib", "lib2to3", "site-packages", "dist-packages", "pydoc_data"}


def documents(packages: Sequence[str] = PACKAGES, *, least: int = 400) -> list[str]:
    """The prose of each module that has some, in the order of packages and paths; equal paragraphs count once.

    Args:
      packages: names of packages; "stdlib" is the standard library. Those that are not installed are passed over.
      least: letters that a document must have.

    Raises:
      ConfigError: none of the packages is installed.
    """
    seen: set[str] = set()
    out = []
    for file in (f for name in packages for f in _files(name)):
        paragraphs = []
        for text in _docstrings(file):
            for paragraph in prose(text):
                if paragraph not in seen:
                    seen.add(paragraph)
                    paragraphs.append(paragraph)
        document = "\n".join(paragraphs)
        if len(document) >= least:
            out.append(document)
    if not out:
        raise ConfigError("packages", tuple(packages), "names of installed packages")
    return out


def prose(text: str) -> list[str]:
    """Paragraphs that read as sentences: no code, lists, tables, or descriptions of arguments."""
    out = []
    for paragraph in re.split(r"\n\s*\n", text):
        if re.match(r"\s{4,}|\s*(>>>|[*=\-~+|:.#@]|\d+\.)", paragraph):
            continue
        line = re.sub(r"[`*]+", "", " ".join(paragraph.split()))
        words = line.split()
        letters = sum(c.isalpha() or c in " ,.'" for c in line)
        sentence = line[:1].isupper() and line[-1:] in ".:!?"
        if len(words) >= 8 and sentence and letters >= 0.93 * len(line):
            out.append(line)
    return out


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of the documents in their order, its first 16 digits."""
    state = hashlib.sha256()
    for text in texts:
        state.update(text.encode() + b"\0")
    return state.hexdigest()[:16]


def _files(name: str) -> Iterator[pathlib.Path]:
    if name == STANDARD_LIBRARY:
        places = [pathlib.Path(sysconfig.get_path("stdlib"))]
    else:
        spec = importlib.util.find_spec(name)
        places = [pathlib.Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        for file in sorted(place.rglob("*.py")):
            parts = set(file.relative_to(place).parts)
            if not parts & _SKIPPED:
                yield file


def _docstrings(file: pathlib.Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return  # of templates and other files that are no modules
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text)
