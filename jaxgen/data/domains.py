"""Running text of several domains, each split by itself: reviews, plays, captions, the code of packages.

A domain is a pattern of files (`yelp/sentiment.test.*`, `multi30k/train.de.gz`), or the Python source of an
installed package, `python:NAME`, and `python:` that of the standard library, which needs no files at all.
"""

import hashlib
import importlib.util
import pathlib
import sysconfig
from collections.abc import Sequence

from jaxgen.data import kept, lines, text
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError

PYTHON = "python:"
_NO_SOURCE = ("site-packages", "dist-packages", "__pycache__", "lib2to3", "idlelib")


def load(
    path: str,
    names: Sequence[str],
    *,
    valid_fraction: float = 0.02,
    test_fraction: float = 0.02,
    max_megabytes: float = 0.0,
) -> dict[str, dict[str, list[str]]]:
    """Domain -> lines of {"train", "valid", "test"}; the last lines of a domain are valid and test parts.

    Args:
      path: folder that patterns are relative to; not read where every domain is a package.
      names: the domains.
      max_megabytes: of each domain, about so many million characters from its beginning; 0 for all.

    Raises:
      ConfigError: a pattern that no file fits, a package that is not installed or has no source, a domain of too
        few lines to split.
    """
    out = {}
    for name in names:
        found = python_code(name.removeprefix(PYTHON)) if name.startswith(PYTHON) else None
        found = _limited(_files(path, name) if found is None else found, max_megabytes)
        valid, test = (int(len(found) * share) for share in (valid_fraction, test_fraction))
        cut = len(found) - valid - test
        if min(cut, valid, test) < 1:
            raise ConfigError("data.files", name, "a domain of more lines: each part needs one")
        out[name] = {
            "train": found[:cut],
            "valid": found[cut : cut + valid],
            "test": found[cut + valid :],
        }
    return out


def python_code(package: str = "") -> list[str]:
    """Lines of an installed package's Python files, without blank ones and indentation.

    Files come in the order of a hash of their path within the package, so that a part of them is of all
    subpackages. Files that are not UTF-8 are left out.

    Args:
      package: a top-level package; "" for the standard library (without installed packages).

    Raises:
      ConfigError: it is not installed, or has no Python source.
    """
    if package:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    else:
        roots = [sysconfig.get_paths()["stdlib"]]
    found = []
    for root in map(pathlib.Path, roots):
        for file in root.rglob("*.py"):
            inside = file.relative_to(root)
            if not any(part in _NO_SOURCE for part in inside.parts):
                found.append((hashlib.sha256(inside.as_posix().encode()).digest(), file))
    out: list[str] = []
    for _, file in sorted(found):
        try:
            whole = lines.decode(file.read_bytes(), str(file))
        except ConfigError:
            kept.left_out(1, "files that are not UTF-8")
            continue
        out += [line for line in (" ".join(row.split()) for row in lines.cut(whole)) if line]
    if not out:
        raise ConfigError("data.files", PYTHON + package, "an installed package with Python source")
    return out


def _files(path: str, pattern: str) -> list[str]:
    root = pathlib.Path(expand(path))
    wild = any(c in pattern for c in "*?[")
    names = sorted(str(p.relative_to(root)) for p in root.glob(pattern)) if wild else [pattern]
    if not names:
        raise ConfigError("data.files", pattern, f"a pattern of files in {root}")
    return text.read_files(root, names).text


def _limited(found: list[str], megabytes: float) -> list[str]:
    if not megabytes:
        return found
    room, count = int(megabytes * 1e6), 0
    for line in found:
        room -= len(line) + 1
        if room < 0:
            break
        count += 1
    kept.left_out(len(found) - count, "lines beyond data.max_megabytes")
    return found[:count]
