"""Where data lies that is not bundled: folders that begin with `$JAXGEN_DATA`."""

import os
import pathlib

from jaxgen.errors import ConfigError

VARIABLE = "JAXGEN_DATA"


def expand(path: str) -> str:
    """`path`, with a leading `$JAXGEN_DATA` replaced by that environment variable.

    Configs keep the variable's name, so that a workdir can be taken to another machine.

    Raises:
      ConfigError: the path begins with the variable, which is not set.
    """
    first, *rest = pathlib.PurePath(path).parts or ("",)
    if first != f"${VARIABLE}":
        return path
    root = os.environ.get(VARIABLE)
    if not root:
        allowed = f"a folder: set {VARIABLE} to the one that holds it, or --config.data.path=DIR"
        raise ConfigError("data.path", path, allowed)
    return os.path.join(root, *rest)
