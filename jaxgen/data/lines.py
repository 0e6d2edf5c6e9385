"""Text files, plain or gzipped, as UTF-8, and their lines: the one reader of all data sources.

A line ends at LF, CR LF or a lone CR, as in an editor, and nowhere else. `str.splitlines` also cuts at
form feed, NEL, U+2028 and others, which stand within sentences of real corpora: two files of a
parallel corpus would be shifted against each other.
"""

import gzip
import os
import pathlib
import sys
import zlib

from jaxgen.errors import ConfigError


def read_lines(path: pathlib.Path) -> list[str]:
    """Lines of a text file without their ends; the last one may lack its end.

    Raises:
      ConfigError: see `read_text`.
    """
    return cut(read_text(path))


def read_text(path: pathlib.Path) -> str:
    """A whole UTF-8 file, gunzipped where its name ends in `.gz`, without a byte order mark.

    Raises:
      ConfigError: a file that is missing, cannot be read, is a damaged or truncated gzip file, or is
        not UTF-8: names the file, and for the last also line and byte.
    """
    if not os.path.isfile(path):  # pathlib raises where a name is too long
        raise ConfigError("data", str(path), "an existing text file")
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".gz":
            if not raw:
                raise EOFError("the file is empty")
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as e:
        raise ConfigError("data", str(path), f"a file that can be read whole ({e})") from e
    return decode(raw, str(path))


def read_stdin() -> list[str]:
    """Lines of the standard input.

    Raises:
      ConfigError: as `decode`.
    """
    raw = getattr(sys.stdin, "buffer", None)  # a notebook's or a test's may be text alone
    return cut(sys.stdin.read() if raw is None else decode(raw.read(), "standard input"))


def decode(raw: bytes, name: str) -> str:
    """UTF-8 bytes as text, without a byte order mark; `name` is for the error.

    Raises:
      ConfigError: names line and byte of what is not UTF-8.
    """
    if raw.count(0) * 4 > len(raw):
        raise ConfigError("data", name, "UTF-8 text (most bytes are zeros, as in UTF-16)")
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        line = len(cut(raw[: e.start].decode("utf-8") + "."))
        place = f"byte {e.start + 1} is 0x{raw[e.start]:02x}"
        raise ConfigError("data", f"{name}, line {line}", f"UTF-8 text ({place})") from e


def cut(text: str) -> list[str]:
    """Lines of a text, without their ends.

    >>> cut("one\\r\\ntwo\\u2028still two\\n\\nfour")
    ['one', 'two\\u2028still two', '', 'four']
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]
