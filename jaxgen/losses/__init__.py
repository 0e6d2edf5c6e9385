"""Losses on sequences, each a pure function of logits and targets."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.losses import (
        bag_of_ngrams,
        coverage,
        cross_entropy,
        eisl,
        fused_linear,
        pair_logprobs,
        policy_gradient,
        soft_lm,
        vae,
    )
    from jaxgen.losses.bag_of_ngrams import bag_of_ngrams_loss
    from jaxgen.losses.coverage import exact_coverage
    from jaxgen.losses.cross_entropy import mean_cross_entropy, sum_cross_entropy
    from jaxgen.losses.eisl import eisl_from_pairs, eisl_loss, mixed_loss
    from jaxgen.losses.fused_linear import fused_loss, sharded_fused_loss
    from jaxgen.losses.policy_gradient import policy_gradient_loss
    from jaxgen.losses.soft_lm import nll as soft_lm_nll

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
