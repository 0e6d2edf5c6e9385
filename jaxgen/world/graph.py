"""A household as arrays: loaded from, and written to, VirtualHome's graph files (Puig et al., 2018).

A graph is {"nodes": [{"id", "class_name", "category", "properties", "states"}], "edges": [{"from_id",
"relation_type", "to_id"}]}; what else a node has is kept. Edges are directed, and an edge given twice counts once.
Nodes are numbered by their ids, in rising order; N is a multiple of 32.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, UInt32

from jaxgen.errors import ConfigError
from jaxgen.world import nodesets, routes
from jaxgen.world.vocabulary import (
    CAPABILITY_NAMES,
    CHARACTER,
    PROPERTIES,
    RELATIONS,
    STATES,
    capabilities,
)

Graph: TypeAlias = dict[str, Any]  # a graph's file, as JSON


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class House:
    """What no action changes. Nodes that only fill up have the id -1."""

    ids: Int32[Array, "*B N"]  # of the graph, rising
    kinds: Int32[Array, "*B N"]  # index into `classes`
    character: Int32[Array, "*B"]  # the node that acts
    can: UInt32[Array, "*B C W"]  # capability -> the nodes that have it
    first_states: UInt32[Array, "*B S W"]  # as loaded; VirtualHome's rules look back at them
    routes: routes.Routes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class World:
    """A household at one moment: sets of nodes, as `jaxgen.world.nodesets` has them."""

    edges: UInt32[Array, "*B R N W"]  # relation, from -> the set of targets
    states: UInt32[Array, "*B S W"]  # state -> the nodes that are in it
    origin: Int32[Array, "*B N"]  # where a node was grabbed, or -1
    origin_relation: Int32[Array, "*B N"]  # how it was there
    house: House


Moment: TypeAlias = tuple[Array, Array, Array, Array]  # the arrays of a world that actions change


def moment(world: World) -> Moment:
    """What actions change; loops carry this alone."""
    return world.edges, world.states, world.origin, world.origin_relation


def at(moment: Moment, house: House) -> World:
    """The world of a moment."""
    return World(*moment, house)


def load(graph: Graph, *, nodes: int = 0, rooms: int = 8, doors: int = 16) -> World:
    """The world of a graph.

    Args:
      nodes: room for as many, where the graph has fewer; worlds of one size can be stacked. Rounded up to a
        multiple of 32.
      rooms: room for as many rooms, if there are fewer.
      doors: likewise, of doors and doorjambs between rooms.

    Raises:
      ConfigError: a field is missing, an id is there twice, an edge leads nowhere, there is no relation,
        state or property of that name, or not exactly one node of class `character`.
    """
    check(graph)
    listed = sorted(graph["nodes"], key=lambda n: n["id"])
    place = {n["id"]: i for i, n in enumerate(listed)}
    total = -(-max(nodes, len(listed)) // nodesets.WORD) * nodesets.WORD
    can = np.zeros((len(CAPABILITY_NAMES), total), bool)
    states = np.zeros((len(STATES), total), bool)
    names = classes(graph)
    for i, n in enumerate(listed):
        properties = [p.upper() for p in n["properties"]]
        for name in capabilities(n["class_name"], n.get("category"), properties):
            can[CAPABILITY_NAMES.index(name), i] = True
        for state in n["states"]:
            states[STATES.index(state.upper()), i] = True
    edges = np.zeros((len(RELATIONS), total, total), bool)
    for e in graph["edges"]:
        relation = RELATIONS.index(e["relation_type"].upper())
        edges[relation, place[e["from_id"]], place[e["to_id"]]] = True
    fill = total - len(listed)
    in_order = [place[n["id"]] for n in graph["nodes"]]
    packed = jnp.asarray(_pack(states))
    return World(
        edges=jnp.asarray(_pack(edges)),
        states=packed,
        origin=jnp.full(total, -1, jnp.int32),
        origin_relation=jnp.zeros(total, jnp.int32),
        house=House(
            ids=jnp.asarray([n["id"] for n in listed] + [-1] * fill, jnp.int32),
            kinds=jnp.asarray(
                [names.index(n["class_name"]) for n in listed] + [-1] * fill, jnp.int32
            ),
            character=jnp.asarray(
                [n["class_name"] for n in listed].index(CHARACTER), dtype=jnp.int32
            ),
            can=jnp.asarray(_pack(can)),
            first_states=packed,
            routes=routes.find(
                edges, can, [n["class_name"] for n in listed], in_order, rooms, doors
            ),
        ),
    )


def _pack(mask: Bool[np.ndarray, "*batch N"]) -> UInt32[np.ndarray, "*batch W"]:
    """`nodesets.pack` in numpy."""
    return np.packbits(mask, axis=-1, bitorder="little").view("<u4").astype(np.uint32)


def _unpack(nodes: UInt32[Array, "*batch W"]) -> Bool[np.ndarray, "*batch N"]:
    words = np.ascontiguousarray(np.asarray(nodes)).astype("<u4")
    return np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little").astype(bool)


def dump(world: World, graph: Graph) -> Graph:
    """The graph of a world: `graph`, which it was loaded from, with today's states and edges.

    Nodes keep their order; states are sorted by name, and edges by ids and relation.
    """
    ids = np.asarray(world.house.ids)
    states = _unpack(world.states)
    place = {int(i): at for at, i in enumerate(ids) if i >= 0}
    nodes = [
        {
            **n,
            "states": sorted(
                s for s, on in zip(STATES, states[:, place[n["id"]]], strict=True) if on
            ),
        }
        for n in graph["nodes"]
    ]
    edges = sorted(
        (int(ids[a]), RELATIONS[r], int(ids[b]))
        for r, a, b in zip(*np.nonzero(_unpack(world.edges)), strict=True)
    )
    kept = {k: v for k, v in graph.items() if k not in ("nodes", "edges")}
    return {
        "nodes": nodes,
        "edges": [{"from_id": a, "relation_type": r, "to_id": b} for a, r, b in edges],
        **kept,
    }


def classes(graph: Graph) -> list[str]:
    """Names of the classes of a graph, sorted: `House.kinds` counts in them."""
    return sorted({n["class_name"] for n in graph["nodes"]})


def stack(worlds: Sequence[World]) -> World:
    """Worlds of one size along a new first axis, for `jax.vmap`.

    Raises:
      ConfigError: their sizes differ.
    """
    shapes = [tuple(x.shape for x in jax.tree.leaves(w)) for w in worlds]
    if len(set(shapes)) != 1:
        sizes = sorted({w.origin.shape[-1] for w in worlds})
        allowed = "worlds of one size: give load the largest numbers of nodes, rooms and doors"
        raise ConfigError("worlds", f"{len(worlds)} of {sizes} nodes", allowed)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *worlds)


def check(graph: Graph) -> None:
    """Raises:
    ConfigError: a graph that `load` cannot read; the first thing that is wrong.
    """
    for part, fields in (
        ("nodes", ("id", "class_name", "properties", "states")),
        ("edges", ("from_id", "relation_type", "to_id")),
    ):
        if not isinstance(graph.get(part), list):
            raise ConfigError(f"graph.{part}", graph.get(part), "a list")
        for i, item in enumerate(graph[part]):
            for field in fields:
                if field not in item:
                    raise ConfigError(f"graph.{part}[{i}]", item, f"an entry with {field!r}")
    seen: set[int] = set()
    for i, n in enumerate(graph["nodes"]):
        if isinstance(n["id"], bool) or not isinstance(n["id"], int) or n["id"] < 0:
            raise ConfigError(f"graph.nodes[{i}].id", n["id"], "an integer from 0")
        if n["id"] in seen:
            raise ConfigError(f"graph.nodes[{i}].id", n["id"], "an id that no other node has")
        seen.add(n["id"])
        for field, known in (("states", STATES), ("properties", PROPERTIES)):
            for value in n[field]:
                if str(value).upper() not in known:
                    raise ConfigError(f"graph.nodes[{i}].{field}", value, ", ".join(known))
    for i, e in enumerate(graph["edges"]):
        if str(e["relation_type"]).upper() not in RELATIONS:
            raise ConfigError(
                f"graph.edges[{i}].relation_type", e["relation_type"], ", ".join(RELATIONS)
            )
        for end in ("from_id", "to_id"):
            if e[end] not in seen:
                raise ConfigError(f"graph.edges[{i}].{end}", e[end], "the id of a node")
    acting = [n["id"] for n in graph["nodes"] if n["class_name"] == CHARACTER]
    if len(acting) != 1:
        raise ConfigError("graph.nodes", acting, f"exactly one node of class {CHARACTER}")
