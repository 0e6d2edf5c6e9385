"""The training of each system: two competing objectives, coverage, and the baselines' losses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from experiments.content_manipulation.systems import System
from jaxgen.config import Config
from jaxgen.data.record_arrays import END, RecordVocabulary
from jaxgen.losses.coverage import exact_coverage, possible_nll, shared_values
from jaxgen.losses.eisl import eisl_from_pairs
from jaxgen.models.data_to_text import DataToText, RecordIds
from jaxgen.nn.copy_attention import Copied
from jaxgen.nn.layers import linear
from jaxgen.text.masking import eos_mask
from jaxgen.train.latent_tasks import Batch
from jaxgen.train.runs import TrainTask

LEAST = -20.0  # log-probability of a word under EISL: a value that the record lacks has -inf
SENTENCES = ("y_aux", "y_ref")


class Judge(nnx.Module):
    """Does what the decoder went through state this record? A discriminator of its states (AdvST)."""

    def __init__(self, vocabulary: RecordVocabulary, width: int, *, rngs: nnx.Rngs):
        size = len(vocabulary) + vocabulary.slots
        self.words = nnx.Embed(size, width, rngs=rngs)
        self.types = nnx.Embed(len(vocabulary.types), width, rngs=rngs)
        self.of_states = nnx.Linear(width, width, rngs=rngs)
        self.of_tuples = nnx.Linear(3 * width, width, rngs=rngs)
        self.out = nnx.Linear(3 * width, 1, rngs=rngs)

    def __call__(
        self, states: Float[Array, "B T D"], said: Array, record: RecordIds
    ) -> Float[Array, " B"]:
        """Logits: above 0 for yes."""
        parts = (self.words(record.value), self.types(record.type), self.words(record.owner))
        tuples = nnx.relu(linear(self.of_tuples, jnp.concatenate(parts, -1)))
        text = nnx.relu(linear(self.of_states, states))
        a, b = _mean(text, said), _mean(tuples, record.mask)
        return self.out(jnp.concatenate([a, b, a * b], -1))[..., 0]


def _mean(x: Float[Array, "B N D"], mask: Array) -> Float[Array, "B D"]:
    return jnp.where(mask[..., None], x, 0).sum(1) / jnp.maximum(mask.sum(1), 1)[:, None]


class Players(nnx.Module):
    """What a system trains: the writer, and the discriminator that AdvST has."""

    def __init__(self, writer: DataToText, judge: Judge | None):
        self.writer, self.judge = writer, judge


def writer(
    config: Config, vocabulary: RecordVocabulary, system: System, key: Key[Array, ""]
) -> DataToText:
    """The model of a system."""
    m = config.model
    return DataToText(
        len(vocabulary),
        len(vocabulary.types),
        generated=vocabulary.said if system.generated else vocabulary.generated,
        slots=vocabulary.slots,
        width=m.width,
        depth=m.depth,
        heads=m.heads,
        coverage=m.coverage if system.state else 0,
        gated=system.gated,
        ordered=system.ordered,
        copies=system.copies,
        tied=m.tied,
        dropout=m.dropout,
        rngs=nnx.Rngs(key),
    )


def task(config: Config, vocabulary: RecordVocabulary, name: str, system: System) -> TrainTask:
    """A system's training; batches are those of `Corpus.arrays`."""

    def loss(
        players: Players, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        made = pair_loss if system.objective == "pair" else cycle_loss
        value, aux = made(config, system, players, batch, key, step)
        return value, (aux, extra)

    def build(key: Key[Array, ""]) -> Players:
        key_judge, key_writer = jax.random.split(key)
        judge = None
        if system.objective == "advst":
            judge = Judge(vocabulary, config.model.width, rngs=nnx.Rngs(key_judge))
        return Players(writer(config, vocabulary, system, key_writer), judge)

    return TrainTask(name, build, loss)


def style_weight(config: Config, system: System, step: Array) -> Float[Array, ""]:
    """lambda: 1 for `loss.pure` steps, then on a line of `loss.ramp` steps to its last value."""
    o = config.loss
    last = o.style_weight if system.style_weight is None else system.style_weight
    share = jnp.clip((step - o.pure) / max(o.ramp, 1), 0.0, 1.0)
    return 1.0 - (1.0 - last) * share


class Terms(NamedTuple):
    """Of each row: -log p of a sentence in nats, its words that count, those that cannot be said, coverage."""

    nats: Float[Array, " B"]
    words: Int[Array, " B"]
    impossible: Int[Array, " B"]
    coverage: Float[Array, " B"]


def terms(
    config: Config,
    model: DataToText,
    record: RecordIds,
    style: Int[Array, "B S"],
    target: Int[Array, "B T"],
    key: Key[Array, ""] | None,
) -> Terms:
    """The likelihood of sentences given records and style sentences, and the coverage of the records."""
    logp, copied = model.logprob(record, style, target, key)
    said = eos_mask(target, END)
    return Terms(*possible_nll(logp, said), coverage(config, record, copied, said))


def coverage(
    config: Config, record: RecordIds, copied: Float[Array, "B T M"], said: Array
) -> Float[Array, " B"]:
    """C of each row, by tuples or by groups of one value and one owner."""
    groups = shared_values(record.value, record.owner, record.mask) if config.loss.groups else None
    return exact_coverage(copied, step_mask=said, tuple_mask=record.mask, groups=groups)


def records(batch: Batch) -> RecordIds:
    """The records x of a batch, then those of its references."""
    parts = ("type", "value", "owner")
    return RecordIds(*(jnp.concatenate([batch[f"x_{p}"], batch[f"ref_{p}"]]) for p in parts))


def pair_loss(
    config: Config,
    system: System,
    players: Players,
    batch: Batch,
    key: Key[Array, ""],
    step: Array,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """(1 - lambda) (content + eta C(x)) + lambda (style + eta C(x_ref)), and the way back where asked for."""
    key_loss, key_style, key_back = jax.random.split(key, 3)
    model, o = players.writer, config.loss
    eta = o.coverage_weight if system.coverage else 0.0
    lam = style_weight(config, system, step)
    style = batch["y_marked"] if system.marked else batch["y_ref"]
    half = len(style)
    both = jnp.concatenate([style, style])
    target = jnp.concatenate([batch[y] for y in SENTENCES])
    use = key_loss if config.model.dropout else None
    if o.style == "ce":
        found = terms(config, model, records(batch), both, target, use)
        content, styled = (jax.tree.map(lambda a, s=s: a[s], found) for s in _halves(half))
        style_nats = styled.nats
    else:
        x, ref = (RecordIds(*(a[s] for a in records(batch))) for s in _halves(half))
        content = terms(config, model, x, style, batch["y_aux"], use)
        use = key_style if config.model.dropout else None
        said = model.teacher_forced(ref, style, batch["y_ref"], use)
        style_nats, styled = eisl_terms(config, ref, batch["y_ref"], said)
    aux = {
        "content": content.nats.sum() / content.words.sum(),
        "style": styled.nats.sum() / styled.words.sum(),
        "coverage": content.coverage.mean(),
        "impossible": content.impossible.sum() / (content.words + content.impossible).sum(),
    }
    value = (1.0 - lam) * (content.nats + eta * content.coverage).mean()
    value += lam * (style_nats + eta * styled.coverage).mean()
    if system.back:
        x, ref = (RecordIds(*(a[s] for a in records(batch))) for s in _halves(half))
        written = greedy(model, x, style)
        use = key_back if config.model.dropout else None
        back = terms(config, model, ref, written, batch["y_ref"], use)
        aux["back"] = back.nats.sum() / back.words.sum()
        value += o.back_weight * back.nats.mean()
    return value, aux


def eisl_terms(
    config: Config, record: RecordIds, target: Int[Array, "B T"], said: Copied
) -> tuple[Float[Array, " B"], Terms]:
    """EISL of each row times its words, so that it weighs what the likelihood does; and the likelihood."""
    real = eos_mask(target, END)
    every = jnp.broadcast_to(target[:, None], (*target.shape, target.shape[1]))
    pairs = jnp.take_along_axis(said.logprobs, every, -1)
    ngrams = config.loss.eisl_ngrams
    each = eisl_from_pairs(pairs, ngrams=ngrams, logits_mask=real, targets_mask=real, clip=LEAST)
    own = jnp.diagonal(pairs, axis1=1, axis2=2)
    covered = coverage(config, record, said.copied, real)
    return each * real.sum(-1), Terms(*possible_nll(own, real), covered)


def greedy(model: DataToText, record: RecordIds, style: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """The likeliest words one by one, without a gradient, as many as the style sentences have room for."""
    fixed = jax.lax.stop_gradient(model)
    return fixed.write(record, style, max_tokens=style.shape[1], beams=1).tokens


def cycle_loss(
    config: Config,
    system: System,
    players: Players,
    batch: Batch,
    key: Key[Array, ""],
    step: Array,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """MAST and AdvST: each sentence from itself and its own record, and from what was made of it.

    What is made of a sentence states the other record of the item. AdvST adds a discriminator of the decoder's
    states, for which a sentence with its own record is real, and what was made, or a sentence beside the other
    record, is not. As in professor forcing, the gradient goes through the states, not through the words.
    """
    key_same, key_back, key_made, key_real = jax.random.split(key, 4)
    o, model = config.loss, players.writer
    use = lambda k: k if config.model.dropout else None  # noqa: E731
    record, sentences = records(batch), jnp.concatenate([batch[y] for y in SENTENCES])
    other = RecordIds(*(jnp.roll(a, len(a) // 2, 0) for a in record))
    same = terms(config, model, record, sentences, sentences, use(key_same))
    written = greedy(model, other, sentences)
    back = terms(config, model, record, written, sentences, use(key_back))
    aux = {
        "style": same.nats.sum() / same.words.sum(),
        "back": back.nats.sum() / back.words.sum(),
    }
    judge = players.judge
    weight = o.mast_back_weight if judge is None else o.advst_back_weight
    value = same.nats.mean() + weight * back.nats.mean()
    if judge is not None:
        made, _ = model.states(other, sentences, written, use(key_made))
        real, _ = model.states(record, sentences, sentences, use(key_real))
        said, told = eos_mask(written, END), eos_mask(sentences, END)
        ce = optax.sigmoid_binary_cross_entropy
        fooled = ce(jax.lax.stop_gradient(judge)(made, said, other), jnp.ones(len(said))).mean()
        made, real = jax.lax.stop_gradient((made, real))
        learned = ce(judge(real, told, record), jnp.ones(len(said))).mean()
        learned += 0.5 * ce(judge(made, said, other), jnp.zeros(len(said))).mean()
        learned += 0.5 * ce(judge(real, told, other), jnp.zeros(len(said))).mean()
        aux |= {"fooled": fooled, "judge": learned}
        value += o.judge_weight * fooled + learned
    return value, aux


def _halves(half: int) -> tuple[slice, slice]:
    return slice(None, half), slice(half, None)
