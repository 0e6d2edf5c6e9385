"""Pairs of sentences and their joint tokenizer, from a config."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from experiments.common.tokenizers import check_kind, kept_tokenizer
from jaxgen.config import Config
from jaxgen.data import kept, translation
from jaxgen.errors import ConfigError
from jaxgen.text import noise, tokenizers


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Pairs and the joint tokenizer.

    Attributes:
      vocab: the tokenizer's size.
      begin: id, as end and pad.
      length: of a sentence in tokens, the end token included, at most.
      train_length: the same of training pairs; those with a longer side are left out.
      read: how much of the sentences the tokens are.
      left_out: rows that were lost on the way, by reason.
    """

    parts: dict[str, translation.Pairs]
    tokenizer: Any
    vocab: int
    begin: int
    end: int
    pad: int
    length: int
    train_length: int
    read: Mapping[str, kept.Kept] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def about_cuts(self) -> str:
        """How much was cut and left out, for a report."""
        return kept.line(self.read, self.left_out, of="pairs")

    def ids(self, texts: list[str]) -> Int[np.ndarray, "N T"]:
        """Tokens of sentences, cut at the corpus' length."""
        return tokenizers.encode(self.tokenizer, texts, self.length)[0]

    def trained_on(self) -> Int[np.ndarray, " N"]:
        """Training pairs of which neither side is longer than `train_length`.

        Raises:
          ConfigError: there is none.
        """
        train, longest = self.parts["train"], self.train_length
        rows = np.flatnonzero(fitting(self.tokenizer, train, longest))
        if not len(rows):
            raise ConfigError("data.train_tokens", longest, "a length that some train pair has")
        return rows

    def arrays(self, kind: str, level: float, seed: int) -> dict[str, np.ndarray]:
        """Training pairs; the targets are disturbed as asked, the sources are clean.

        Noise may lengthen a target, which is then cut. The last arrays are kept, since the losses of a cell
        ask for the same ones.
        """
        return dict(_arrays(self, kind, level, seed))


@functools.lru_cache(maxsize=1)
def _arrays(corpus: Corpus, kind: str, level: float, seed: int) -> dict[str, np.ndarray]:
    train, longest, rows = corpus.parts["train"], corpus.train_length, corpus.trained_on()
    clean = [train.target[i] for i in rows]
    target = noise.corrupt(clean, kind, level, seed=seed, blank=tokenizers.UNKNOWN_WORD)
    sides = {"source": [train.source[i] for i in rows], "target": target}
    return {k: tokenizers.encode(corpus.tokenizer, v, longest)[0] for k, v in sides.items()}


def load(config: Config, workdir: pathlib.Path) -> Corpus:
    """Reads the pairs; the joint BPE is trained on clean training text and kept in the workdir."""
    check_kind(config)
    d = config.data
    with kept.tally() as left_out:
        parts = translation.load(
            d.source,
            path=d.path,
            train=d.train,
            valid=d.valid,
            test=d.test,
            limit=d.limit,
            seed=d.seed,
        )
    selects = config.selection.start_every or config.selection.every
    for split in ("train", "test", *(("valid",) if selects else ())):
        if not len(parts[split]):
            raise ConfigError("data", 0, f"at least one pair in the {split} split")
    train = parts["train"]
    tokenizer = kept_tokenizer(config, workdir, train.source + train.target)
    longest = d.train_tokens or d.max_tokens
    fits = fitting(tokenizer, train, longest)
    left_out[f"train pairs of more than {longest} tokens"] += int((~fits).sum())
    read = {"train": kept.Kept(int(fits.sum()))}
    for name in ("valid", "test"):  # their targets are compared as text, and whole
        ids = tokenizers.tokens(tokenizer, parts[name].source)
        read[name] = kept.of_lengths([list(map(len, ids))], [tokenizers.room(d.max_tokens)])
    special = tokenizers.special_ids(tokenizer)
    size = len(tokenizer)
    corpus = Corpus(parts, tokenizer, size, *special, d.max_tokens, longest, read, left_out)
    corpus.trained_on()
    check_vocabulary(config, size)
    return corpus


def check_vocabulary(config: Config, size: int) -> None:
    """The fused loss splits the vocabulary evenly over the mesh axis `model`.

    Raises:
      ConfigError: where it cannot.
    """
    parts = config.mesh.model
    if config.eisl.fused_bytes and parts > 1 and size % parts:
        raise ConfigError("mesh.model", parts, f"a divisor of {size} tokens, with eisl.fused_bytes")


def fitting(tokenizer: Any, pairs: translation.Pairs, longest: int) -> Bool[np.ndarray, " N"]:
    """Whether both sides of a pair have at most so many tokens, the end token included."""
    fits = np.ones(len(pairs), bool)
    for side in (pairs.source, pairs.target):
        fits &= tokenizers.encode(tokenizer, side, longest + 1)[1] <= longest
    return fits


def abstract(config: Config) -> tuple[Corpus, dict[str, Any]]:
    """A corpus and the shapes of a batch from the config alone, for `--mode=compile`."""
    d = config.data
    check_vocabulary(config, d.vocab_size)
    ids = jax.ShapeDtypeStruct((config.train.batch_size, d.max_tokens), jnp.int32)
    corpus = Corpus({}, None, d.vocab_size, 1, 2, 0, d.max_tokens, d.max_tokens)
    return corpus, {"source": ids, "target": ids}
