"""What is trained: readers of real text, the autoencoder that all systems begin from, and the systems."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from experiments.lm_discriminator.generation import generator, write, write_in_parallel
from experiments.lm_discriminator.systems import System
from jaxgen.config import Config
from jaxgen.data.tokens import TokenShape
from jaxgen.evaluators.language_model import lm_task
from jaxgen.losses import soft_lm
from jaxgen.losses.cross_entropy import mean_cross_entropy
from jaxgen.losses.eisl import eisl_loss
from jaxgen.models import gpt2
from jaxgen.models.style_transfer import StyleTransfer, hidden_words
from jaxgen.moe.gates import temperature_at
from jaxgen.nn.textcnn import TextCNN
from jaxgen.text.gumbel_softmax import soft_eos_mask
from jaxgen.text.masking import delete_tokens, eos_mask
from jaxgen.train.latent_tasks import Batch
from jaxgen.train.runs import TrainTask

GREEDY = 0.01  # temperature of back-translations
LOWEST_LOGPROB = -20.0  # of EISL, as its authors have it
DROP, REACH = 0.1, 3  # of "corrupt": share of words that go, places that the others move at most


class Players(nnx.Module):
    """What one system trains: the generator, and whatever learns against it."""

    def __init__(
        self, generator: StyleTransfer, critic: TextCNN | None, lms: list[gpt2.GPT] | None
    ):
        self.generator, self.critic = generator, critic
        self.lms = None if lms is None else nnx.List(lms)


def lm_config(config: Config, shape: TokenShape) -> gpt2.GPTConfig:
    """The language models of both styles."""
    m = config.lm
    sizes = {"width": m.width, "depth": m.depth, "heads": m.heads, "dropout": m.dropout}
    return gpt2.config(shape.size, **sizes, max_positions=shape.length + 1)


def style_lm_task(config: Config, shape: TokenShape, style: int, name: str = "lm") -> TrainTask:
    """A language model of one style's real text."""
    return lm_task(f"{name}_{style}", lm_config(config, shape), shape)


def classifier_task(config: Config, shape: TokenShape, name: str = "style_classifier") -> TrainTask:
    """A classifier of the style of real text, a share of whose words it does not see."""

    def loss(
        model: TextCNN, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        x, style = _both(batch)
        seen = jax.random.bernoulli(key, 1.0 - config.classifier.word_dropout, x.shape)
        logits = model(x, eos_mask(x, shape.end) & seen)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, style)
        return each.mean(), ({"accuracy": (logits.argmax(-1) == style).mean()}, extra)

    def make(key: Key[Array, ""]) -> TextCNN:
        return TextCNN(shape.size, 2, width=config.classifier.width, rngs=nnx.Rngs(key))

    return TrainTask(name, make, loss)


def start_task(config: Config, shape: TokenShape, noise: str) -> TrainTask:
    """G as an autoencoder of both styles, from which all systems of that noise begin."""

    def loss(
        model: StyleTransfer, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        return repeat_loss(config, shape, model, *_both(batch), noise, key), ({}, extra)

    return TrainTask(f"start_{noise}", lambda key: generator(config, shape, key), loss)


def task(
    config: Config,
    shape: TokenShape,
    name: str,
    system: System,
    start: StyleTransfer,
    lms: tuple[gpt2.GPT, gpt2.GPT],
    classifier: TextCNN,
) -> TrainTask:
    """A system's training; what is frozen is the loss' own state, in no optimiser."""
    t = config.transfer

    def loss(
        model: Players, extra: dict[str, Any], batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        key_repeat, key_write, key_back, key_again = jax.random.split(key, 4)
        g, (x, style) = model.generator, _both(batch)
        real, other = eos_mask(x, shape.end), 1 - style
        ramp = jnp.minimum(step / t.ramp, 1.0) if t.ramp else 1.0
        aux = {"repeat": repeat_loss(config, shape, g, x, style, system.noise, key_repeat)}
        value = aux["repeat"]
        tau = temperature_at(
            step,
            start=t.start,
            end=t.end,
            decay_steps=t.decay_steps,
            kind="linear",
        )
        compose = write_in_parallel if system.parallel else write
        text, log_q, said = compose(config, shape, g, x, other, key_write, tau, hard=system.hard)
        if system.back and t.cycle_weight:
            seen = text
            if system.back == "sampled":
                fixed = jax.lax.stop_gradient(g)
                seen = write(config, shape, fixed, x, other, key_back, GREEDY).text
                seen = jax.lax.stop_gradient(jax.nn.one_hot(seen.argmax(-1), shape.size))
            use = key_again if config.model.dropout else None
            back = g(seen, soft_eos_mask(seen, shape.end), style, x, key=use)
            aux["cycle"] = mean_cross_entropy(back, x, real).mean()
            value += t.cycle_weight * aux["cycle"]
        if system.content:
            each = content_losses(system.content, t.ngrams, log_q, said, x, real)
            aux["content"] = each.mean()
            value += t.content_weight * aux["content"]
        if system.lm:
            readers = extra["lms"] if model.lms is None else jax.lax.stop_gradient(list(model.lms))
            each = lm_losses(shape, readers, text, said, log_q if system.entropy else None)
            aux["lm"] = each.mean()
            value += ramp * t.lm_weight * aux["lm"]
        if system.classifier:
            each = optax.softmax_cross_entropy_with_integer_labels(
                extra["classifier"](text, said), other
            )
            aux["style"] = each.mean()
            value += ramp * t.classifier_weight * aux["style"]
        if model.critic is not None:
            fooled, learned = critic_losses(model.critic, shape, x, real, text, said)
            aux |= {"fooled": fooled, "critic": learned}
            value += ramp * t.critic_weight * fooled + learned
        if model.lms is not None:
            learned = adversarial_losses(shape, list(model.lms), x, real, text, said, t.gamma)
            aux["lm_learns"] = learned
            value += learned
        return value, (aux, extra)

    def build(key: Key[Array, ""]) -> Players:
        key_critic, key_other = jax.random.split(key)
        width = config.classifier.width
        critic = TextCNN(shape.size, 4, width=width, rngs=nnx.Rngs(key_critic))
        learned = [gpt2.GPT(lm_config(config, shape), rngs=nnx.Rngs(key_other)) for _ in lms]
        return Players(
            generator(config, shape, key),
            critic if system.critic else None,
            learned if system.learned_lm else None,
        )

    def pretrained(players: Players) -> Players:
        """Copies, since the step takes over the buffers that it starts from."""
        own = [jax.tree.map(jnp.array, lm) for lm in lms] if system.learned_lm else None
        return Players(jax.tree.map(jnp.array, start), players.critic, own)

    frozen = {"lms": lms, "classifier": classifier}
    return TrainTask(name, build, loss, extra=lambda: frozen, pretrained=pretrained)


def repeat_loss(
    config: Config,
    shape: TokenShape,
    g: StyleTransfer,
    x: Int[Array, "B T"],
    style: Int[Array, " B"],
    noise: str,
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """CE(G(x, style), x) a token, of an encoder that does not see all of x."""
    key_hide, key_noise, key_drop = jax.random.split(key, 3)
    real, read = eos_mask(x, shape.end), x
    if noise == "corrupt":
        read = corrupt(x, key_noise, shape)
    seen = eos_mask(read, shape.end)
    hidden = hidden_words(key_hide, seen, config.model.hide)
    use = key_drop if config.model.dropout else None
    return mean_cross_entropy(g(read, seen, style, x, hidden=hidden, key=use), x, real).mean()


def corrupt(x: Int[Array, "B T"], key: Key[Array, ""], shape: TokenShape) -> Int[Array, "B T"]:
    """Text with a share of its words gone and the others moved a little (Lample et al., 2018)."""
    key_move, key_drop = jax.random.split(key)
    place = jnp.arange(x.shape[1]) + jax.random.uniform(key_move, x.shape) * (REACH + 1)
    word = eos_mask(x, shape.end) & (x != shape.end)
    order = jnp.argsort(jnp.where(word, place, x.shape[1] + REACH + jnp.arange(x.shape[1])), -1)
    moved = jnp.take_along_axis(x, order, 1)
    words = jnp.where(jnp.take_along_axis(word, order, 1), moved, shape.source_pad)
    fewer = delete_tokens(words, key_drop, rate=DROP, pad=shape.source_pad)
    count = (fewer != shape.source_pad).sum(1, keepdims=True)
    return jnp.where(jnp.arange(x.shape[1]) == count, shape.end, fewer)


def content_losses(
    kind: str,
    ngrams: Sequence[int],
    log_q: Float[Array, "B T V"],
    said: Bool[Array, "B T"],
    x: Int[Array, "B T"],
    real: Bool[Array, "B T"],
) -> Float[Array, " B"]:
    """Of what is written against its source: token by token, or by n-grams wherever they stand."""
    if kind == "ce":
        return mean_cross_entropy(log_q, x, real)
    # Where the end is forced, all other tokens have the lowest logit there is: clipped, sums stay finite.
    return eisl_loss(
        log_q, x, ngrams=ngrams, logits_mask=said, targets_mask=real, clip=LOWEST_LOGPROB
    )


def lm_losses(
    shape: TokenShape,
    lms: Any,
    text: Float[Array, "B T V"],
    said: Bool[Array, "B T"],
    log_q: Float[Array, "B T V"] | None,
) -> Float[Array, " B"]:
    """Of what is written, by the language model of the style that it is written in: 1, then 0."""
    half = len(text) // 2
    out = []
    for style, rows in ((1, slice(None, half)), (0, slice(half, None))):
        lm = soft_lm.as_lm(lms[style], shape.begin)
        if log_q is None:
            out.append(soft_lm.nll(lm, text[rows], said[rows]))
        else:
            out.append(soft_lm.kl(lm, text[rows], said[rows], log_q=log_q[rows]))
    return jnp.concatenate(out)


def adversarial_losses(
    shape: TokenShape,
    lms: list[gpt2.GPT],
    x: Int[Array, "B T"],
    real: Bool[Array, "B T"],
    text: Float[Array, "B T V"],
    said: Bool[Array, "B T"],
    gamma: float,
) -> Float[Array, ""]:
    """Of language models that learn: real text of their style up, what is written in it down."""
    half, total = len(x) // 2, jnp.zeros(())
    rows = slice(None, half), slice(half, None)
    for style, lm in enumerate(lms):
        own, written = rows[style], rows[1 - style]
        reader = soft_lm.as_lm(lm, shape.begin)
        total += soft_lm.adversarial(
            reader, x[own], real[own], text[written], said[written], gamma=gamma
        )[0]
    return total


def critic_losses(
    critic: TextCNN,
    shape: TokenShape,
    x: Int[Array, "B T"],
    real: Bool[Array, "B T"],
    text: Float[Array, "B T V"],
    said: Bool[Array, "B T"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What the generator pays, and the critic, which tells real from written text of each style.

    Its classes are style 0 and 1 of real text, then of written text. Non-saturating: the generator
    minimises -log p(real, style asked for).
    """
    ce = optax.softmax_cross_entropy_with_integer_labels
    style = jnp.arange(len(x)) // (len(x) // 2)
    fooled = ce(jax.lax.stop_gradient(critic)(text, said), 1 - style).mean()
    fixed = jax.lax.stop_gradient(text)
    learned = ce(critic(x, real), style).mean() + ce(critic(fixed, said), 3 - style).mean()
    return fooled, learned


def _both(batch: Batch) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
    """Rows of style 0, then as many of style 1."""
    zero, one = batch["0"], batch["1"]
    style = jnp.arange(2 * len(zero), dtype=jnp.int32) // len(zero)
    return jnp.concatenate([zero, one]), style
