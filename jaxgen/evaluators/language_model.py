"""Language models as judges of text and proteins: perplexity of samples, and reverse perplexity.

A language model that is trained on real sequences reads samples (its perplexity punishes nonsense), and one
that is trained on samples reads real test sequences (reverse perplexity punishes missing variety).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from jaxgen.data.tokens import TokenIds, TokenShape
from jaxgen.evaluators.common import batched_apply
from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.metrics import text as text_metrics
from jaxgen.models import bert, gpt2
from jaxgen.text.masking import eos_mask, shift_right
from jaxgen.train.runs import Runs, TrainTask


def lm_task(name: str, config: gpt2.GPTConfig, shape: TokenShape) -> TrainTask:
    """A plain autoregressive language model of the targets; batches have `target` [B, T]."""

    def loss(
        model: gpt2.GPT, extra: PyTree, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        use = key if config.stack.dropout else None
        nll, count = lm_nll(model, batch["target"], shape.begin, shape.end, use)
        value = nll.sum() / count.sum()
        return value, ({"perplexity": jnp.exp(value)}, extra)

    return TrainTask(name, lambda key: gpt2.GPT(config, rngs=nnx.Rngs(key)), loss)


def lm_nll(
    model: gpt2.GPT,
    targets: Int[Array, "B T"],
    begin: int,
    end: int,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
    """Nats and number of tokens of each row; the end token counts, what follows does not."""
    logits, _ = model(shift_right(targets, begin), key=key)
    return sum_cross_entropy(logits, targets, eos_mask(targets, end))


_lm_nll = jax.jit(lm_nll, static_argnums=(2, 3))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _lm_features(
    model: gpt2.GPT, targets: Int[Array, "B T"], begin: int, end: int
) -> Float[Array, "B D"]:
    hidden, _, _ = model.hidden(shift_right(targets, begin))
    return bert.mean_pool(hidden.astype(jnp.float32), eos_mask(targets, end))


def real_tokens(targets: TokenIds, shape: TokenShape) -> Bool[np.ndarray, "N T"]:
    """Positions that count: up to the end token (text), or up to the first padding (proteins)."""
    return np.asarray(eos_mask(jnp.asarray(targets), shape.end))


@dataclasses.dataclass(frozen=True)
class LanguageModelOptions:
    """Size and training of the language models that judge."""

    width: int
    depth: int
    heads: int
    steps: int
    reverse_steps: int
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A trained language model, and what it takes to train others beside it.

    Attributes:
      model: trained on real sequences alone.
    """

    model: gpt2.GPT
    shape: TokenShape
    runs: Runs
    options: LanguageModelOptions

    @classmethod
    def train(
        cls, runs: Runs, options: LanguageModelOptions, shape: TokenShape, real: TokenIds
    ) -> "LanguageModel":
        """Trains the judge on real sequences, or restores it."""
        model = _fit(runs, options, shape, "judge_lm", 1000, real, options.steps)
        return cls(model, shape, runs, options)

    def perplexity(self, targets: TokenIds) -> float:
        """Of a token of these sequences, the end token included."""
        return perplexity(self.model, targets, self.shape)

    def features(self, targets: TokenIds) -> Float[np.ndarray, "N D"]:
        """What `metrics.mauve` compares: the mean of the last block's states over a sequence's tokens.

        Of the model of real sequences. (The authors take the last token's state, of GPT-2 large.)
        """
        v = self.shape
        apply = lambda model, rows: _lm_features(model, rows, v.begin, v.end)  # noqa: E731
        return batched_apply(apply, self.model, targets)

    def reverse_perplexity(
        self, name: str, seed: int, samples: TokenIds, real: Int[np.ndarray, "M T"]
    ) -> float:
        """Of a token of real sequences, under a language model of the samples.

        Args:
          name: of the run that trains it; a name for these samples alone.
        """
        o = self.options
        reader = _fit(self.runs, o, self.shape, name, seed, samples, o.reverse_steps)
        return perplexity(reader, real, self.shape)


def _fit(
    runs: Runs,
    options: LanguageModelOptions,
    shape: TokenShape,
    name: str,
    seed: int,
    targets: TokenIds,
    steps: int,
) -> gpt2.GPT:
    o = options
    config = gpt2.config(
        shape.size,
        width=o.width,
        depth=o.depth,
        heads=o.heads,
        max_positions=shape.length + 1,
        dropout=0.1,
    )
    task, arrays = lm_task(name, config, shape), {"target": targets}
    return runs.fit(task, seed, arrays, steps=steps, learning_rate=o.learning_rate, judging=True)


def perplexity(model: gpt2.GPT, targets: TokenIds, shape: TokenShape) -> float:
    """Of a token of these sequences, the end token included."""
    nll = lambda t: _lm_nll(model, t, shape.begin, shape.end)  # noqa: E731
    return text_metrics.perplexity(nll, targets)
