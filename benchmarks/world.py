"""The household simulator: steps a second of many worlds at once, beside the Python executor of its peer.

    python benchmarks/world.py --peer=DIR

DIR is a checkout of szxiangjn/world-model-for-language-model (or of its folder build_dataset/mcts/virtualhome/simulation),
whose executor runs the same scripts, one world after the other, and must end in the same graphs. 4,096 apartments of
60 nodes; every line of the scripts is an action that can be done, drawn at random.
"""

import pathlib
import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import records

from jaxgen.world import actions, activities, apartments, gathering, graph, planning, search
from jaxgen.world.graph import World

LINES = 16


@jax.jit
def draw(world: World, table: jax.Array, key: jax.Array) -> jax.Array:
    """A script of actions that can be done, by the way a random walk takes."""

    def line(world: World, key: jax.Array) -> tuple[World, jax.Array]:
        able = actions.valid(world, table) & (table[:, 0] >= 0)
        action = table[jax.random.categorical(key, jnp.where(able, 0.0, -jnp.inf))]
        return actions.step(world, action)[0], action

    return jax.lax.scan(line, world, jax.random.split(key, LINES))[1]


class Peer:
    """The Python executor, on the same graphs and scripts; one world after the other."""

    def __init__(self, folder: pathlib.Path, graphs: list, scripts: list[list[str]], ends: list):
        inside = folder / "build_dataset/mcts/virtualhome/simulation"
        sys.path.insert(0, str(inside if inside.is_dir() else folder))
        from evolving_graph.environment import EnvironmentGraph
        from evolving_graph.execution import ScriptExecutor
        from evolving_graph.scripts import read_script_from_list_string

        self.executor = lambda graph: ScriptExecutor(EnvironmentGraph(graph), {})
        self.graphs, self.ends = graphs, ends
        self.scripts = [read_script_from_list_string(lines) for lines in scripts]

    def seconds(self) -> float:
        """Of all scripts, each once; each must end where ours does. Loading and comparing are not counted."""
        total = 0.0
        for source, script, end in zip(self.graphs, self.scripts, self.ends, strict=True):
            executor = self.executor(source)
            begin = time.perf_counter()
            ok, state, _ = executor.execute(script, w_graph_list=False)
            total += time.perf_counter() - begin
            if not ok or _edges(state.to_dict()) != _edges(end):
                raise SystemExit(f"the peer ends elsewhere: {executor.info.get_error_string()}")
        return total


def _edges(graph: dict) -> set[tuple[int, str, int]]:
    return {(e["from_id"], e["relation_type"], e["to_id"]) for e in graph["edges"]}


def clock(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def searches(worlds: int, nodes: int, simulations: int, rounds: int) -> records.Record:
    """Simulations a second of the tree search that makes experience, each with a walk of 12 actions at its end."""
    rng, problems = np.random.default_rng(0), []
    while len(problems) < worlds:
        activity = activities.ACTIVITIES[int(rng.integers(len(activities.ACTIVITIES)))]
        if (found := gathering.problem(rng, activity, nodes=nodes, actions=72)) is not None:
            problems.append(found)
    options = {"simulations": simulations, "depth": 16, "rounds": 1, "attempts": 1}
    run = partial(search.search, *gathering.stacked(problems), jax.random.key(0), **options)
    clock(run)  # compiles
    rates = [worlds * simulations / clock(run) for _ in range(rounds)]
    sizes = {"worlds": worlds, "nodes": nodes, "simulations": simulations}
    return records.alone("tree search", rates, sizes=sizes, part="search", unit="simulations/s")


def main() -> None:
    parser = records.parser(__doc__, rounds=7)
    parser.add_argument("--peer", type=pathlib.Path)
    parser.add_argument("--worlds", type=int, default=4096)
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--apartments", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--peer_worlds", type=int, default=64)
    args = parser.parse_args()
    out = records.Recorder(args.json)

    rng = np.random.default_rng(0)
    graphs = [apartments.sample(rng, nodes=args.nodes) for _ in range(args.apartments)]
    loaded = [graph.load(g, nodes=args.nodes) for g in graphs]
    tables = [planning.table(w, size=4096) for w in loaded]
    copies = -(-args.worlds // args.apartments)
    few, table = graph.stack(loaded), jnp.stack(tables)
    keys = jax.random.split(jax.random.key(0), (copies, args.apartments))
    scripts = jax.lax.map(lambda k: jax.vmap(draw)(few, table, k), keys)
    scripts = scripts.reshape(-1, LINES, 3)[: args.worlds]
    worlds = jax.tree.map(lambda x: jnp.tile(x, (copies, *[1] * (x.ndim - 1)))[: args.worlds], few)
    print(
        f"{args.worlds} worlds of {args.nodes} nodes, {LINES} lines each, {jax.devices()[0].platform}"
    )

    steps = args.worlds * LINES
    many = partial(actions.run_many, chunk=args.chunk)
    done = many(worlds, scripts)
    if int(done.executed.sum()) != steps:
        raise SystemExit("a line failed")
    one = list(zip(loaded, scripts, strict=False))[:64]
    singly = lambda: [actions.run(w, s) for w, s in one]  # noqa: E731
    clock(singly)  # compiles
    peer = None
    if args.peer:
        count = min(args.peer_worlds, args.apartments)
        lines = [
            [
                actions.render(a, loaded[i], {n["id"]: n["class_name"] for n in graphs[i]["nodes"]})
                for a in np.asarray(scripts[i])
            ]
            for i in range(count)
        ]
        ends = [
            graph.dump(jax.tree.map(lambda x, i=i: x[i], done.world), graphs[i])
            for i in range(count)
        ]
        peer = Peer(args.peer, graphs[:count], lines, ends)
    at_once, singles, others = [], [], []
    for _ in range(args.rounds):
        at_once.append(steps / clock(partial(many, worlds, scripts)))
        singles.append(len(one) * LINES / clock(singly))
        if peer is not None:
            others.append(len(peer.scripts) * LINES / peer.seconds())
    more = {"part": "steps", "unit": "steps/s", "sides": ("all at once", "this")}
    out.add(records.pairs("jitted, one world after the other", at_once, singles, **more))
    name = "the Python executor, one world after the other"
    if peer is None:
        out.add(records.Record(name, missing="not run: no --peer=DIR", **more))
    else:
        out.add(records.pairs(name, at_once, others, target=100.0, **more))
    out.add(searches(64, 48, 48, args.rounds))


if __name__ == "__main__":
    main()
