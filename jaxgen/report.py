"""Compares workdirs on one page.

    python -m jaxgen.report RUN1 RUN2 [...] [--out=FILE.html]

Where their configs differ, their results side by side, their training curves on one plot, and what made
them. Writes FILE.html and FILE.md (`comparison.html` by default). Exit code 2 and one line where a folder is
no workdir or cannot be read.
"""

import pathlib
import sys
from collections.abc import Sequence

from jaxgen.errors import ConfigError, UsageError

USAGE = "python -m jaxgen.report RUN1 RUN2 [...] [--out=FILE.html]"


def parse(arguments: Sequence[str]) -> tuple[list[pathlib.Path], pathlib.Path]:
    """(workdirs, page to write) of a command line.

    Raises:
      UsageError: an unknown flag, fewer than two workdirs or one twice, a page that is no .html file.
    """
    out, runs = "comparison.html", []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--out":
            out = value if equals else next(rest, "")
        elif argument.startswith("-"):
            raise UsageError(f"{argument}: no such flag; usage: {USAGE}")
        else:
            runs.append(pathlib.Path(argument))
    page = pathlib.Path(out)
    if page.suffix != ".html" or page.is_dir():
        raise ConfigError("out", out, "a file that ends in .html")
    if len({run.resolve() for run in runs}) < max(len(runs), 2):
        raise UsageError(f"two or more workdirs, each once; usage: {USAGE}")
    return runs, page


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns its exit code."""
    if {"-h", "--help"} & set(arguments):
        print(f"usage: {USAGE}")
        return 0
    from jaxgen.train import compare

    try:
        runs, page = parse(arguments)
        print(f"report: {compare.write([compare.read(run) for run in runs], page)}")
    except ConfigError as e:
        print("error: " + " ".join(str(e).split()), file=sys.stderr)
        return 2
    except OSError as e:  # of the page: a full disk, a folder that is not writable
        print(f"error: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
