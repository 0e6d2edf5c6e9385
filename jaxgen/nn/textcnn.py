"""A convolutional classifier of text that also reads distributions over tokens (Kim, 2014)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxgen import fsdp
from jaxgen.nn.embedding import embed


class TextCNN(nnx.Module):
    """Embeddings, convolutions of several widths, the maximum over positions, a linear layer."""

    def __init__(
        self,
        vocab: int,
        classes: int,
        *,
        width: int,
        kernels: tuple[int, ...] = (1, 2, 3),
        rngs: nnx.Rngs,
    ):
        """Args:
        width: of embeddings and of each kernel size's features.
        kernels: their sizes in tokens.
        """
        self.tokens = nnx.Embed(vocab, width, rngs=rngs)
        self.convs = nnx.List(
            [nnx.Conv(width, width, k, padding="SAME", rngs=rngs) for k in kernels]
        )
        self.out = nnx.Linear(width * len(kernels), classes, rngs=rngs)

    def __call__(
        self,
        text: Int[Array, "B T"] | Float[Array, "B T V"],
        mask: Bool[Array, "B T"],
    ) -> Float[Array, "B K"]:
        """Logits of the classes.

        Args:
          text: tokens, or a distribution over them at each position, through which gradients flow.
          mask: which positions are real; the others may hold anything.

        Raises:
          ValueError: distributions over another vocabulary; outside jit, tokens that this one does not
            have. Under jit those give NaN.
        """
        h = embed(fsdp.gather_table(self.tokens.embedding[...]), text, "text", mask)
        h = jnp.where(mask[..., None], h, 0.0)
        features = [jax.nn.relu(conv(h)) for conv in self.convs]
        # Rectified features are at least 0, so 0 is what padding may add to a maximum.
        top = [jnp.where(mask[..., None], f, 0.0).max(1, initial=0.0) for f in features]
        return self.out(jnp.concatenate(top, -1))
