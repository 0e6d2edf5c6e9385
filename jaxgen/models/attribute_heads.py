"""Classifiers of attributes and of keywords on latents, and the operators that they make (LatentOps)."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from jaxgen.latent_ode import energy
from jaxgen.losses.cross_entropy import mean_cross_entropy
from jaxgen.nn import mlp
from jaxgen.numerics import Number

UNKNOWN = -1
KEYWORDS = "keywords"


class AttributeHeads(nnx.Module):
    """One MLP for each attribute, by name; that of `KEYWORDS` says for each word whether it occurs."""

    def __init__(
        self, dim: int, sizes: Mapping[str, int], *, width: int, depth: int, rngs: nnx.Rngs
    ):
        """Args:
        dim: size of a latent.
        sizes: number of labels of each attribute.
        """
        self.nets = nnx.Dict(
            {n: mlp.MLP(dim, k, width=width, depth=depth, rngs=rngs) for n, k in sizes.items()}
        )

    def loss(
        self,
        z: Float[Array, "B D"],
        labels: Mapping[str, Array],
        key: Key[Array, ""],
        *,
        noise: Number = 0.0,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Cross-entropy, summed over heads, on latents with noise: the energies become smooth between data.

        Args:
          labels: indices [B], or `UNKNOWN`, of each attribute; {0, 1} [B, W] of `KEYWORDS`.
          noise: its std.

        Returns:
          The mean over the rows that have a label, and the accuracy of each attribute.
        """
        noisy = z + noise * jax.random.normal(key, z.shape)
        total, accuracy = jnp.zeros(()), {}
        for name, net in self.nets.items():
            logits, y = net(noisy), labels[name]
            if name == KEYWORDS:
                # Words are rare: the sum over words keeps their gradient in proportion.
                total = total + optax.sigmoid_binary_cross_entropy(logits, y).sum(-1).mean()
                continue
            total = total + mean_cross_entropy(logits, y, y != UNKNOWN)
            hit = (logits.argmax(-1) == y).sum()
            accuracy[f"{name}_accuracy"] = hit / jnp.maximum((y != UNKNOWN).sum(), 1)
        return total, accuracy


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("heads", "directions"),
    meta_fields=("labels", "words"),
)
@dataclasses.dataclass(frozen=True)
class Operators:
    """Trained heads with the labels and words that they know; a pytree.

    Attributes:
      directions: {attribute: [K, D] mean latent of each label less the mean of the others}, for the
        linear-shift baseline.
      labels: (attribute, its labels) pairs.
      words: of the head `KEYWORDS`.
    """

    heads: AttributeHeads
    directions: Mapping[str, Float[np.ndarray, "K D"] | Float[Array, "K D"]]
    labels: tuple[tuple[str, tuple[str, ...]], ...]
    words: tuple[str, ...] = ()

    def get(self, name: str) -> energy.Operator:
        """The operator of an attribute, or of `KEYWORDS`."""
        net = self.heads.nets[name]
        if name == KEYWORDS:
            return energy.keywords(net, self.words, name=name, dim=net.dim)
        return energy.classifier(net, dict(self.labels)[name], name=name, dim=net.dim)


def mean_directions(
    u: Float[np.ndarray, "N D"], y: Int[np.ndarray, " N"], count: int
) -> Float[np.ndarray, "K D"]:
    """Mean latent of each label less the mean of the others; rows that are `UNKNOWN` are left out."""
    known = y != UNKNOWN
    return np.stack([u[y == k].mean(0) - u[known & (y != k)].mean(0) for k in range(count)])
