"""Language models that read distributions over tokens: as discriminators of generated text.

A generator writes a sequence of distributions s_1..s_T (`jaxgen.text.gumbel_softmax.unroll`). A language model
of the style that is asked for reads them and says, at every position, how good the next one is:

    L(s) = - sum_t m_t sum_v s_t[v] log p(v | s_<t)

the cross-entropy of s under the model, with gradients to s as target and as what the model reads.
Source: Yang, Hu, Dyer, Xing and Berg-Kirkpatrick (2018); its form with the generator's entropy: He et al. (2020).
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgen.errors import require
from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.numerics import Number, is_zero, wide
from jaxgen.text.masking import shift_right


@runtime_checkable
class ReadsText(Protocol):
    """Tokens [B, T], or distributions [B, T, V], to logits [B, T, V] of each given those before it."""

    def __call__(self, text: Int[Array, "B T"] | Float[Array, "B T V"], /) -> Float[Array, "B T V"]:
        """The shift to the right is made inside."""
        ...


def as_lm(model: Callable[[Array], tuple[Array, PyTree]], begin: int) -> ReadsText:
    """A `jaxgen.models.gpt2.GPT` (or GPT-Neo, or Llama), as the losses here call it, without dropout.

    Args:
      model: text -> (logits of the token after each, whatever else); it is in the function that this
        returns, so call `as_lm` inside the jitted function that has the model as an argument.
      begin: id of what stands before the first token.
    """
    return lambda text: model(shift_right(text, begin))[0]


def nll(
    lm: ReadsText,
    text: Int[Array, "B T"] | Float[Array, "B T V"],
    mask: Bool[Array, "B T"],
    *,
    normalise: bool = True,
    stop_input_gradient: bool = False,
) -> Float[Array, " B"]:
    """L(s) in nats, in float32 or wider; of one-hot distributions that is the negative log-likelihood.

    Args:
      lm: see `as_lm`. Its logits are to be finite.
      text: tokens, or distributions.
      mask: which positions count: those up to the first end token. What stands elsewhere reaches neither
        value nor gradient, be it NaN, if the model is causal and none that counts comes after.
      normalise: divide by the number of positions that count. Without it, short text is favoured.
      stop_input_gradient: the model's logits are constants; the gradient reaches s as target alone.
    """
    if text.ndim == 2:
        total, count = sum_cross_entropy(lm(jnp.where(mask, text, 0)), text, mask)
    else:
        text = jnp.where(mask[..., None], text, 0)
        logp = _log_probs(lm, text, stop_input_gradient)
        each = -(text.astype(logp.dtype) * logp).sum(-1)
        total, count = jnp.where(mask, each, 0).sum(-1), mask.sum(-1)
    return total / jnp.maximum(count, 1) if normalise else total


def kl(
    lm: ReadsText,
    text: Float[Array, "B T V"],
    mask: Bool[Array, "B T"],
    *,
    log_q: Float[Array, "B T V"] | None = None,
    normalise: bool = True,
    stop_input_gradient: bool = False,
) -> Float[Array, " B"]:
    """sum_t m_t sum_v s_t[v] (log q_t[v] - log p(v | s_<t)), in nats: `nll` less the text's entropy.

    Args:
      log_q: the generator's log-softmax at each position. On hard draws this is the estimate of
        KL(q || p) that He et al. (2020) minimise, with gradients to both. By default log s, of which it
        is the exact KL of the distributions: at least 0, and 0 where the model predicts s.
      lm: see `nll`, as the other arguments.
    """
    text = jnp.where(mask[..., None], text, 0)
    logp = _log_probs(lm, text, stop_input_gradient)
    s = text.astype(logp.dtype)
    if log_q is None:
        log_q = jnp.log(jnp.maximum(s, jnp.finfo(s.dtype).tiny))
    log_q = jnp.where(mask[..., None], log_q.astype(logp.dtype), 0)
    total = jnp.where(mask, (s * (log_q - logp)).sum(-1), 0).sum(-1)
    return total / jnp.maximum(mask.sum(-1), 1) if normalise else total


def adversarial(
    lm: ReadsText,
    real: Int[Array, "B T"] | Float[Array, "B T V"],
    real_mask: Bool[Array, "B T"],
    generated: Float[Array, "N S V"],
    generated_mask: Bool[Array, "N S"],
    *,
    gamma: Number,
    cap: Number | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """What a language model minimises that learns against a generator: real text up, generated text down.

    mean nll(real) - gamma mean min(nll(generated), cap), each per token

    Nothing bounds the second term from below, so a row that is at the cap already is no longer pushed
    (ours: the paper's has no cap). The generator gets no gradient.

    Args:
      gamma: 0 is training on real text alone, without reading the other; may be traced.
      cap: nats a token; log V by default, what a model says that knows nothing. May be traced.

    Returns:
      The loss, and {"real", "generated"}, the two means before the cap (without "generated" at gamma 0).

    Raises:
      ValueError: gamma negative or not finite, cap not above 0.
    """
    require("gamma", (gamma >= 0) & (gamma < jnp.inf), gamma, "0 or more, finite")
    most = math.log(generated.shape[-1]) if cap is None else cap
    require("cap", most > 0, most, "above 0")
    true = nll(lm, real, real_mask).mean()
    if is_zero(gamma):
        return true, {"real": true}
    written = nll(lm, jax.lax.stop_gradient(generated), generated_mask)
    value = true - gamma * jnp.minimum(written, jnp.asarray(most, written.dtype)).mean()
    return value, {"real": true, "generated": written.mean()}


def _log_probs(lm: ReadsText, text: Float[Array, "B T V"], stop: bool) -> Float[Array, "B T V"]:
    logits = lm(text)
    logits = jax.lax.stop_gradient(logits) if stop else logits
    return jax.nn.log_softmax(logits.astype(wide(logits)))
