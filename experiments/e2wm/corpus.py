"""General text and experience as tokens."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.common import tokenizers as stored
from experiments.e2wm import collect
from experiments.e2wm.collect import Experience
from jaxgen.config import Config
from jaxgen.data import docstrings, language_model, splits
from jaxgen.data.root import expand
from jaxgen.data.tokens import TokenIds
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers
from jaxgen.train.writers import read_json, write_atomic

PARTS = ("train", "fisher", "test")
SHARE = 0.05  # of the documents: for the Fisher information (and replay and KL), and for the test


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens of a launch.

    Attributes:
      general: part -> windows, of which each token but the first is predicted.
      rows: of the experience, {"tokens" [N, T], "weights" [N, T]}: prompt, answer, end, padding.
      digest: of the general text.
      sizes: part -> documents and tokens of the general text.
      positions: of the model.
    """

    tokenizer: Any
    general: dict[str, TokenIds]
    rows: dict[str, np.ndarray]
    experience: Experience
    digest: str
    sizes: dict[str, tuple[int, int]]
    positions: int

    @property
    def end(self) -> int:
        """Id of the end token."""
        return tokenizers.special_ids(self.tokenizer)[1]

    @property
    def pad(self) -> int:
        """Id of padding."""
        return tokenizers.special_ids(self.tokenizer)[2]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts, without special ones."""
        return tokenizers.tokens(self.tokenizer, texts)


def load(config: Config, workdir: pathlib.Path) -> Corpus:
    """General text, experience and tokenizer of a launch; made the first time, and kept in the workdir."""
    documents = _documents(config, workdir)
    digest = docstrings.digest(documents)
    where = splits.split_by_hash(
        [d.encode() for d in documents], valid_fraction=SHARE, test_fraction=SHARE
    )
    parts = {
        name: [documents[i] for i in where[key]]
        for name, key in zip(PARTS, ("train", "valid", "test"), strict=True)
    }
    experience = collect.load(config, workdir)
    tokenizer = _tokenizer(config, workdir, parts["train"], experience)
    d, length = config.data, config.data.general_tokens
    general, sizes = {}, {}
    for name, every in parts.items():
        if not every:
            raise ConfigError("data.general_path", d.general_path, "more documents: 20 or more")
        limit = d.general_limit if name == "train" else d.general_limit // 10
        texts = _cut(every, limit) if d.general_limit else every
        general[name] = language_model.windows(tokenizer, texts, length)
        sizes[name] = len(texts), general[name].shape[0] * length
    weights = {task: config.weights[task] for task in collect.TASKS}
    rows = encode(tokenizer, experience.train, weights, config.model.positions)
    return Corpus(tokenizer, general, rows, experience, digest, sizes, config.model.positions)


def _documents(config: Config, workdir: pathlib.Path) -> list[str]:
    path = config.data.general_path
    if path:
        return read_documents(expand(path))
    kept = workdir / "general.json"
    texts = read_json(kept)
    if not isinstance(texts, list):
        texts = docstrings.documents()
        write_atomic(kept, json.dumps(texts))
    return [str(t) for t in texts]


def read_documents(path: str) -> list[str]:
    """The files of a folder, or a file in pieces of 40 paragraphs.

    Raises:
      ConfigError: it is not there, or no text.
    """
    place = pathlib.Path(path)
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    out = []
    for file in files:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError("data.general_path", str(file), f"text in UTF-8 ({e})") from e
        paragraphs = [" ".join(p.split()) for p in text.split("\n\n") if p.strip()]
        piece = 40 if len(files) == 1 else max(len(paragraphs), 1)
        out += ["\n".join(paragraphs[i : i + piece]) for i in range(0, len(paragraphs), piece)]
    return out


def _tokenizer(
    config: Config, workdir: pathlib.Path, texts: list[str], experience: Experience
) -> Any:
    if config.model.path:
        return stored.named_tokenizer(workdir, "model.path", expand(config.model.path))
    told = [f"{r['input']} {r['ref']}" for rows in experience.train.values() for r in rows]
    # Each word of the experience once: a token that general text never has would keep the embedding that it was born
    # with, and low-rank updates cannot learn to write it.
    words = " ".join(sorted({word for text in told for word in text.split()}))
    return stored.kept_tokenizer(config, workdir, [*texts, words])


def _cut(texts: Sequence[str], letters: int) -> list[str]:
    """The first documents, of so many letters together."""
    ends = np.cumsum([len(t) for t in texts])
    return list(texts[: max(1, int((ends <= letters).sum()))])


def encode(
    tokenizer: Any,
    train: dict[str, list[dict[str, object]]],
    weights: dict[str, float],
    positions: int,
) -> dict[str, np.ndarray]:
    """Rows of all tasks: "tokens", and "weights", which are the task's on the answer and the end token, else 0.

    Raises:
      ConfigError: a prompt and its answer have more tokens than the model has positions.
    """
    _, end, pad = tokenizers.special_ids(tokenizer)
    every = [(r, weights[task]) for task, rows in train.items() for r in rows]
    prompts = tokenizers.tokens(tokenizer, [str(r["input"]) for r, _ in every])
    answers = tokenizers.tokens(tokenizer, [f" {r['ref']}" for r, _ in every])
    lengths = [len(p) + len(a) + 1 for p, a in zip(prompts, answers, strict=True)]
    check_length("prompt to train on", max(lengths), positions)
    size = min(positions, -(-max(lengths) // 8) * 8)
    tokens: Int[np.ndarray, "N T"] = np.full((len(every), size), pad, np.int32)
    weight: Float[np.ndarray, "N T"] = np.zeros((len(every), size), np.float32)
    for i, (p, a, (_, w)) in enumerate(zip(prompts, answers, every, strict=True)):
        tokens[i, : lengths[i]] = [*p, *a, end]
        weight[i, len(p) : lengths[i]] = w
    return {"tokens": tokens, "weights": weight}


def check_length(field: str, tokens: int, positions: int) -> None:
    """Raises ConfigError where a text has more tokens than a model has positions."""
    if tokens > positions:
        allowed = f"at most {positions}, as model.positions; fewer data.shots make prompts shorter"
        raise ConfigError(f"{field}: tokens", tokens, allowed)
