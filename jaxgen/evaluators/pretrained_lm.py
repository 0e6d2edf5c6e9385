"""A pretrained language model as a judge of fluency: it knows neither the study's data nor its tokenizer.

Perplexity is exp of nats a token of the model's own tokenizer, over all texts together; the token that begins a
text is given, and its end is not asked for.
"""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.evaluators.common import batched_apply
from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.models import bert, gpt2, hf
from jaxgen.text import tokenizers
from jaxgen.train.writers import read_json, write_atomic

_SLICE = 16  # lengths are rounded up to a multiple, so that few programs are compiled


class PretrainedLM:
    """A language model of a local folder or GGUF file; what it said of texts is kept in a folder."""

    def __init__(self, path: str, *, kept: pathlib.Path | None = None, batch: int = 32):
        """Args:
        path: of a Hugging Face folder or of a GGUF file, with weights and tokenizer.
        kept: folder for values, one file for each list of texts; None keeps none.
        batch: texts at a time.

        Raises:
          ConfigError: there is no decoder-only language model.
        """
        self.tokenizer = tokenizers.load(path, field="judge.lm_path")
        self.config = hf.read_config(path)
        self.path, self.kept, self.batch = path, kept, batch
        self._model: Any = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return pathlib.Path(self.path).stem

    def nll(self, texts: Sequence[str]) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Nats and tokens of each text; texts longer than the model's positions are cut."""
        inputs = self._inputs(texts)
        return batched_apply(_nll, self._model, inputs, batch=self.batch), inputs["count"]

    def features(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """Mean of the last block's states over each text's tokens; see `LanguageModel.features`."""
        inputs = self._inputs(texts)
        return batched_apply(_features, self._model, inputs, batch=self.batch)

    def _inputs(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Padded ids after the token that begins a text, and their counts; loads the model."""
        begin = _document_begin(self.tokenizer)
        ids = [i[: self.config.max_positions - 1] for i in tokenizers.tokens(self.tokenizer, texts)]
        counts = np.array([len(i) for i in ids], np.int32)
        length = -(-int(counts.max(initial=1)) // _SLICE) * _SLICE
        length = min(length, self.config.max_positions - 1)
        rows = np.full((len(ids), length + 1), begin, np.int32)
        for row, i in zip(rows, ids, strict=True):
            row[1 : len(i) + 1] = i
        if self._model is None:
            self._model = hf.load(self.path)
        return {"tokens": rows, "count": counts}

    def perplexity(self, texts: Sequence[str]) -> float:
        """Of a token; NaN without any."""
        key = json.dumps([self.name, tokenizers.digest(self.tokenizer), list(texts)])
        name = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        path = None if self.kept is None else self.kept / f"{name}.json"
        known = None if path is None else read_json(path)
        if isinstance(known, dict) and isinstance(known.get("perplexity"), float):
            return known["perplexity"]
        if not texts:
            return float("nan")
        nats, counts = self.nll(texts)
        value = float(np.exp(nats.sum() / counts.sum())) if counts.sum() else float("nan")
        if path is not None and jax.process_index() == 0:
            write_atomic(path, json.dumps({"perplexity": value, "texts": len(texts)}) + "\n")
        return value


def _document_begin(tokenizer: tokenizers.Tokenizer) -> int:
    """What stands before a document in pretraining: chat models begin turns, not texts, with their bos token."""
    if "<|endoftext|>" in tokenizer.all_special_tokens:
        return tokenizer.convert_tokens_to_ids("<|endoftext|>")
    return tokenizers.special_ids(tokenizer)[0]


@jax.jit
def _nll(model: gpt2.GPT, rows: dict[str, Array]) -> Float[Array, " B"]:
    tokens = rows["tokens"]
    real = jnp.arange(tokens.shape[1] - 1) < rows["count"][:, None]
    logits, _ = model(tokens[:, :-1])
    return sum_cross_entropy(logits, tokens[:, 1:], real)[0]


@jax.jit
def _features(model: gpt2.GPT, rows: dict[str, Array]) -> Float[Array, "B D"]:
    tokens = rows["tokens"]
    hidden, _, _ = model.hidden(tokens)
    places = jnp.arange(tokens.shape[1])
    return bert.mean_pool(
        hidden.astype(jnp.float32), (places >= 1) & (places <= rows["count"][:, None])
    )
