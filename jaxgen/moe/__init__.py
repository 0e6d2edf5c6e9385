"""Mixtures of experts: gates, dispatch, the layer, experts over many devices and their placement."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.moe import (
        dispatch,
        expert_parallel,
        gates,
        grouped,
        init_experts,
        layer,
        loss_free,
        placement,
        remoe,
    )
    from jaxgen.moe.gates import Routing
    from jaxgen.moe.layer import Experts, MoE, MoEContext, RouterStats

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
