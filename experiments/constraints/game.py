"""One training step of any system: the model's own loss, its theta-step, and the constraint's phi-step.

Both steps use the same fresh samples, K for each condition; gradients are stopped where they would be wrong.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from experiments.constraints.systems import System
from jaxgen.config import Config
from jaxgen.constraints import posterior, steps
from jaxgen.train.latent_tasks import Batch
from jaxgen.train.runs import TrainTask

Result = tuple[Array, tuple[dict[str, Array], PyTree]]
PROPOSAL_DECAY = 0.99  # of DPG's average model


class Problem(Protocol):
    """A task: model, constraint and critic, and how they meet. Samples are [C, K, ...]."""

    @property
    def config(self) -> Config:
        """Of the launch."""
        ...

    @property
    def explicit(self) -> bool:
        """Whether the theta-step is that of a model with a density."""
        ...

    def build_model(self, key: Key[Array, ""]) -> nnx.Module:
        """The base."""
        ...

    def build_constraint(self, key: Key[Array, ""]) -> nnx.Module:
        """The structured f."""
        ...

    def build_critic(self, key: Key[Array, ""]) -> nnx.Module:
        """A free network in its place."""
        ...

    def draw(self, model: Any, batch: Batch, key: Key[Array, ""], count: int) -> PyTree:
        """`count` samples of each condition."""
        ...

    def own_loss(
        self, model: Any, batch: Batch, key: Key[Array, ""], samples: PyTree
    ) -> Float[Array, ""]:
        """What the base is trained by; None for samples: it draws what it needs."""
        ...

    def log_prob(self, model: Any, samples: PyTree, batch: Batch) -> Float[Array, "C K"]:
        """Of samples, where there is a density."""
        ...

    def reward(self, f: Any, samples: PyTree, batch: Batch) -> Float[Array, "C K"]:
        """Of samples, by the structured f or the critic."""
        ...

    def reward_data(self, f: Any, batch: Batch) -> Float[Array, " C"]:
        """Of the batch's own examples."""
        ...

    def knowledge_loss(self, f: Any, batch: Batch) -> Float[Array, ""]:
        """What f is pre-trained by."""
        ...

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of a batch, from the config alone."""
        ...


class Players(nnx.Module):
    """What one system trains: the model, and a constraint or critic that learns."""

    def __init__(self, model: nnx.Module, constraint: nnx.Module | None):
        self.model, self.constraint = model, constraint


def base_task(problem: Problem) -> TrainTask:
    """The model by its own loss, from which all systems go on."""

    def loss(model: Any, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array) -> Result:
        return problem.own_loss(model, batch, key, None), ({}, extra)

    return TrainTask("start", problem.build_model, loss)


def knowledge_task(problem: Problem) -> TrainTask:
    """The structured f by what it is to know before."""

    def loss(f: Any, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array) -> Result:
        return problem.knowledge_loss(f, batch), ({}, extra)

    return TrainTask("constraint", problem.build_constraint, loss)


def task(
    problem: Problem, name: str, system: System, start: nnx.Module | None, f: nnx.Module | None
) -> TrainTask:
    """A system's training; what is frozen is the loss' own state, in no optimiser.

    Args:
      start: the trained base, and `f` the pre-trained constraint; None to trace the loss alone.
    """
    c = problem.config.constraint
    learns = system.phi != "fixed"

    def loss(
        players: Players, extra: dict[str, Any], batch: Batch, key: Key[Array, ""], step: Array
    ) -> Result:
        key_draw, key_own = jax.random.split(key)
        model = players.model
        if system.reward == "none":
            own = problem.own_loss(model, batch, key_own, None)
            return own, ({"own": own}, extra)
        f = players.constraint if learns else extra["constraint"]
        author = extra["proposal"] if system.proposal else model
        samples = problem.draw(author, batch, key_draw, c.samples)
        fixed = jax.lax.stop_gradient(samples)
        own = problem.own_loss(model, batch, key_own, samples)
        seen = problem.reward(jax.lax.stop_gradient(f), samples, batch)
        still = jax.lax.stop_gradient(seen)
        alpha = posterior.solve_alpha(still, c.target_ess) if c.target_ess else c.alpha
        ratio = None
        if problem.explicit:
            logprob = problem.log_prob(model, fixed, batch)
            if system.proposal:
                before = problem.log_prob(extra["base"], fixed, batch)
                ratio = jax.lax.stop_gradient(before - problem.log_prob(author, fixed, batch))
            theta = steps.explicit_model_loss(logprob, still, alpha, log_ratio=ratio).mean()
        else:
            theta = steps.implicit_model_loss(seen, alpha).mean()
        value = own + c.weight * theta
        of_data = problem.reward_data(f, batch)
        of_samples = problem.reward(f, fixed, batch) if learns else still
        phi, aux = steps.constraint_loss(of_data, of_samples, alpha, log_ratio=ratio)
        if system.phi == "m_step":
            phi = steps.m_step_loss(of_samples, alpha).mean()
        elif system.phi == "binary":
            real = optax.sigmoid_binary_cross_entropy(of_data, jnp.ones_like(of_data)).mean()
            drawn = optax.sigmoid_binary_cross_entropy(of_samples, jnp.zeros_like(of_samples))
            phi = real + drawn.mean()
        if learns:
            value += phi
            aux["phi"] = phi
        if system.anchor:
            aux["anchor"] = problem.knowledge_loss(f, batch)
            value += c.anchor * aux["anchor"]
        if system.proposal:
            average = jax.tree.map(
                lambda a, b: PROPOSAL_DECAY * a + (1 - PROPOSAL_DECAY) * b,
                author,
                jax.lax.stop_gradient(model),
            )
            extra = extra | {"proposal": average}
        aux |= {"own": own, "theta": theta, "alpha": jnp.asarray(alpha, jnp.float32)}
        return value, (aux, extra)

    def build(key: Key[Array, ""]) -> Players:
        key_model, key_f = jax.random.split(key)
        make = problem.build_critic if system.reward == "critic" else problem.build_constraint
        return Players(problem.build_model(key_model), make(key_f) if learns else None)

    def pretrained(players: Players) -> Players:
        """Copies, since the step takes over the buffers that it starts from."""
        kept = players.constraint
        if kept is not None and system.reward == "structured":
            kept = jax.tree.map(jnp.array, f)
        return Players(jax.tree.map(jnp.array, start), kept)

    def frozen() -> dict[str, Any]:
        state: dict[str, Any] = {}
        if system.reward == "structured" and not learns:
            state["constraint"] = f
        if system.proposal:
            state |= {"base": start, "proposal": start}
        return state

    rates = {"^constraint/": c.rate} if learns else {}
    return TrainTask(name, build, loss, extra=frozen, pretrained=pretrained, rates=rates)
