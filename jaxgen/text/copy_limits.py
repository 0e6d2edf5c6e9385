"""Decoding in which no value of a record is written more often than the record has it.

A hard form of coverage: the likelihood of an attention model leaves it free to say a value twice, where its style
sentence has a place more than the record has values. Compare the soft penalties on beams of Wu et al. (2016) and
See et al. (2017).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.text.decoding import Start


def as_often_as_there(
    start: Start, values: Int[Array, "B M"], real: Bool[Array, "B M"] | None = None
) -> Start:
    """The same decoding of token ids; a value that was written as often as the record has it has probability 0.

    Logits become log-probabilities of the words that may still be written. Words that are no value are as free
    as before, so there has to be one.

    Args:
      values: token ids of a record's values.
      real: which of them count; None for all.
    """
    real = jnp.ones(values.shape, bool) if real is None else real
    same = (values[:, :, None] == values[:, None, :]) & real[:, None, :]
    times = same.sum(-1)

    def free(
        logits: Float[Array, "N V"], said: Array, values: Array, times: Array, real: Array
    ) -> Float[Array, "N V"]:
        most = jnp.where(real & (said >= times), -jnp.inf, jnp.inf).astype(logits.dtype)
        row = jnp.arange(logits.shape[0])[:, None]
        return jax.nn.log_softmax(logits.at[row, values].min(most))

    def step(state: tuple, token: Int[Array, " N"]) -> tuple[Float[Array, "N V"], tuple]:
        cache, said, values, times, real = state
        logits, cache = start.step(cache, token)
        said = said + (values == token[:, None])
        return free(logits, said, values, times, real), (cache, said, values, times, real)

    state = (start.cache, jnp.zeros(values.shape, jnp.int32), values, times, real)
    return Start(step, state, free(start.logits, *state[1:]), start.room)
