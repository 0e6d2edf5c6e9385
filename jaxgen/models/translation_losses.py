"""What a translation model is trained by: cross-entropy, EISL of its own output, two policy gradients.

Each is a mean over rows, and a function of (model, source [B, M], target [B, T], key).
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.losses import eisl, fused_linear
from jaxgen.losses.cross_entropy import mean_cross_entropy
from jaxgen.losses.policy_gradient import policy_gradient_loss
from jaxgen.metrics.sentence_bleu import sentence_bleu
from jaxgen.models.translator import TranslationModel, Translator
from jaxgen.numerics import is_zero
from jaxgen.text.masking import eos_mask


def teacher_forced_loss(
    model: TranslationModel,
    source: Int[Array, "B M"],
    target: Int[Array, "B T"],
    key: Key[Array, ""] | None,
    *,
    ngram_factor: float = 0.0,
    ce_factor: float = 1.0,
    ngrams: tuple[int, ...] = (2, 3, 4),
    weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
    length_weight: float = 1.0,
) -> Float[Array, ""]:
    """Cross-entropy of the target, mixed with EISL where `ngram_factor` is above 0; see `eisl.mixed_loss`.

    Args:
      weights: of the n-grams' sizes; equal and of sum 1 by default.
      length_weight: of what a non-autoregressive model's guess of the length costs.
    """
    logits, length = model.teacher_forced(source, target, key)
    real = eos_mask(target, model.end)
    if is_zero(ngram_factor):
        each = ce_factor * mean_cross_entropy(logits, target, real, label_smoothing=label_smoothing)
    else:
        each = eisl.mixed_loss(
            logits,
            target,
            ngram_factor=ngram_factor,
            ce_factor=ce_factor,
            ngrams=ngrams,
            weights=weights,
            label_smoothing=label_smoothing,
            mask=real,
        )
    return (each + length_weight * length).mean()


def free_running_eisl(
    model: Translator,
    source: Int[Array, "B M"],
    target: Int[Array, "B T"],
    key: Key[Array, ""],
    *,
    ngrams: tuple[int, ...] = (2, 3, 4),
    weights: tuple[float, ...] | None = None,
    ngram_factor: float = 1.0,
    ce_factor: float = 0.0,
    fused_bytes: int = 0,
    mesh: Mesh | None = None,
) -> Float[Array, ""]:
    """EISL of what the model says when it reads its own output, plus cross-entropy where wanted.

    A decoder that reads the target knows, at every position, the tokens before it; it would only have
    to repeat the last of them, since EISL lets a token be matched one place later.

    Args:
      weights: of the n-grams' sizes; equal and of sum 1 by default.
      fused_bytes: budget of the loss fused with the output layer (`fused_linear`); 0 makes all logits.
      mesh: needed by the fused loss where its axis `model` splits the vocabulary.
    """
    key_free, key_forced = jax.random.split(key)
    own = jax.lax.stop_gradient(model).translate(source, target.shape[1])
    said, real = eos_mask(own, model.end), eos_mask(target, model.end)
    if fused_bytes:
        h = model.teacher_forced_states(source, own, key_free)

        def each(pairs: Array, masks: dict[str, Bool[Array, "B T"]]) -> Array:
            said, real = masks["said"], masks["real"]
            return eisl.eisl_from_pairs(
                pairs, ngrams=ngrams, weights=weights, logits_mask=said, targets_mask=real
            )

        masks = {"said": said, "real": real}
        arguments = (h, model.output_embedding(), target, each, masks)
        if mesh is None or mesh.size == 1:
            matched = fused_linear.fused_loss(*arguments, budget=fused_bytes)
        else:
            matched = fused_linear.sharded_fused_loss(mesh, *arguments, budget=fused_bytes)
    else:
        logits, _ = model.teacher_forced(source, own, key_free)
        each_row = eisl.eisl_loss(
            logits, target, ngrams=ngrams, weights=weights, logits_mask=said, targets_mask=real
        )
        matched = each_row.mean()
    total = ngram_factor * matched
    if ce_factor:
        total = total + ce_factor * teacher_forced_loss(model, source, target, key_forced)
    return total


def policy_gradient(
    model: Translator,
    source: Int[Array, "B M"],
    target: Int[Array, "B T"],
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """REINFORCE with sentence BLEU as reward, on one drawn translation of each row."""
    key_draw, key_drop = jax.random.split(key)
    drawn = jax.lax.stop_gradient(model).sample(source, key_draw, target.shape[1])
    real = eos_mask(drawn, model.end)
    reward = sentence_bleu(drawn, target, real, eos_mask(target, model.end))
    logits, _ = model.teacher_forced(source, drawn, key_drop)
    return policy_gradient_loss(logits, drawn, reward, mask=real).mean()


def best_of_candidates(
    model: Translator,
    source: Int[Array, "B M"],
    target: Int[Array, "B T"],
    key: Key[Array, ""] | None,
    *,
    candidates: int = 4,
) -> Float[Array, ""]:
    """Cross-entropy of the candidate that is most like the target: the "policy gradient" of EISL's authors.

    Of the K translations that a beam search finds the one of the highest sentence BLEU is learned as if it
    were the target; K = 4 there. No term of the gradient has a reward, so it is self-training.

    Raises:
      ValueError: fewer than 1 candidate, or more than the vocabulary allows.
    """
    found = jax.lax.stop_gradient(model).candidates(source, candidates, target.shape[1])
    real = eos_mask(target, model.end)

    def reward(said: Int[Array, "B T"]) -> Float[Array, " B"]:
        return sentence_bleu(said, target, eos_mask(said, model.end), real)

    best = jax.vmap(reward, in_axes=1, out_axes=1)(found).argmax(1)
    chosen = jnp.take_along_axis(found, best[:, None, None], 1)[:, 0]
    return teacher_forced_loss(model, source, chosen, key)
