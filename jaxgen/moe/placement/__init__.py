"""Where experts lie: planning, its costs, policies, moving weights, and a model of the time it takes."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.moe.placement import (
        adaptive,
        cost,
        hierarchical,
        laer,
        migrate,
        modes,
        planner,
        policies,
        simulator,
        split,
        traffic,
        work,
    )
    from jaxgen.moe.placement.adaptive import AdaptivePlacement
    from jaxgen.moe.placement.cost import Costs
    from jaxgen.moe.placement.planner import Policy, next_placement
    from jaxgen.moe.placement.policies import Rules

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
