"""Sentence pairs for translation: two files side by side, or a made-up language that a grammar speaks."""

import dataclasses
import pathlib
from collections.abc import Sequence

from jaxgen.data import corpora, kept, lines
from jaxgen.data.root import expand
from jaxgen.data.splits import check_limit, split_by_hash
from jaxgen.errors import ConfigError

SOURCES = ("files", "grammar")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """source[i] is to be translated into target[i]."""

    source: list[str]
    target: list[str]

    def __len__(self) -> int:
        return len(self.source)


def load(
    source: str,
    *,
    path: str = "",
    train: Sequence[str] = (),
    valid: Sequence[str] = (),
    test: Sequence[str] = (),
    limit: int = 0,
    seed: int = 0,
) -> dict[str, Pairs]:
    """{"train", "valid", "test"}.

    Args:
      source: "files" or "grammar" (`invented`).
      path: folder of the files.
      train: (source file, target file) under `path`, plain or .gz, one sentence a line.
      valid: as `train`.
      test: as `train`.
      limit: keep the first so many train pairs; for the grammar, the number of pairs in all (20,000).
      seed: of the grammar.

    Raises:
      ConfigError: an unknown source, a missing file, files of different length.
    """
    if source not in SOURCES:
        raise ConfigError("data.source", source, "one of " + ", ".join(SOURCES))
    check_limit(limit)
    if source == "grammar":
        target = list(dict.fromkeys(r.text for r in corpora.grammar(limit or 20_000, seed=seed)))
        parts = split_by_hash(map(str.encode, target), valid_fraction=0.05, test_fraction=0.1)
        return {
            name: Pairs([invented(target[i]) for i in rows], [target[i] for i in rows])
            for name, rows in parts.items()
        }
    folder, out = pathlib.Path(expand(path)), {}
    for name, files in (("train", train), ("valid", valid), ("test", test)):
        if len(files) != 2:
            raise ConfigError(f"data.{name}", tuple(files), "two file names, source and target")
        out[name] = read_pairs(folder / files[0], folder / files[1])
    if limit:
        kept.left_out(max(len(out["train"]) - limit, 0), "pairs beyond data.limit")
        out["train"] = Pairs(out["train"].source[:limit], out["train"].target[:limit])
    return out


def read_pairs(source: pathlib.Path, target: pathlib.Path) -> Pairs:
    """Two files of as many lines (`jaxgen.data.lines`); pairs with an empty side are left out.

    Raises:
      ConfigError: a missing or unreadable file, files of different length, or no pair.
    """
    a, b = (lines.read_lines(p) for p in (source, target))
    if len(a) != len(b):
        raise ConfigError(
            "data", f"{source} and {target}", f"as many lines ({len(a)} and {len(b)})"
        )
    both = [(x.strip(), y.strip()) for x, y in zip(a, b, strict=True) if x.strip() and y.strip()]
    if not both:
        raise ConfigError("data", f"{source} and {target}", "at least one pair of sentences")
    kept.left_out(len(a) - len(both), "pairs with a blank side")
    return Pairs([x for x, _ in both], [y for _, y in both])


def invented(sentence: str) -> str:
    """A grammar sentence in a language with other words, and other word order within the clause.

    Each word becomes another by a fixed rule, and of every clause the last word comes first, so that a
    translator has to learn a lexicon and to move words.
    """
    clauses: list[list[str]] = [[]]
    for word in sentence.split():
        if word in ",.!":
            clauses[-1].append(word)
            clauses.append([])
        else:
            clauses[-1].append(word)
    out = []
    for clause in clauses:
        mark = clause[-1:] if clause and clause[-1] in ",.!" else []
        words = clause[: len(clause) - len(mark)]
        out += [_word(w) for w in words[-1:] + words[:-1]] + mark
    return " ".join(out)


_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"
_NEXT = str.maketrans(
    _VOWELS + _CONSONANTS, _VOWELS[1:] + _VOWELS[0] + _CONSONANTS[1:] + _CONSONANTS[0]
)


def _word(word: str) -> str:
    """Vowels and consonants each move one place on, and the word is written backwards."""
    return word[::-1].translate(_NEXT)
