"""A household world in arrays: load it, act in it, plan in it, and tell what happened."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.world import (  # type: ignore[attr-defined]
        actions,
        activities,
        apartments,
        breadth_first,
        catalogue,
        effects,
        experience,
        forms,
        gathering,
        graph,
        grounding,
        nodesets,
        paths,
        planning,
        plans,
        rewriting,
        routes,
        rules,
        search,
        sentences,
        situation,
        vocabulary,
    )
    from jaxgen.world.graph import World
    from jaxgen.world.rules import E2WM, VIRTUALHOME, Rules

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
