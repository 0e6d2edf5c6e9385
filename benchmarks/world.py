"""The household simulator: steps a second of many worlds at once, beside the Python executor of its peer.

    python benchmarks/world.py --peer=DIR

DIR is a checkout of szxiangjn/world-model-for-language-model (or of its folder build_dataset/mcts/virtualhome/simulation),
whose executor runs the same scripts, one world after the other, and must end in the same graphs. 4,096 apartments of
60 nodes; every line of the scripts is an action that can be done, drawn at random.
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.world import actions, apartments, graph, planning
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


Times = list[tuple[float, float]]  # seconds on the clock, and of the processor (all threads)


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(begin: tuple[float, float]) -> tuple[float, float]:
    now = clocks()
    return now[0] - begin[0], now[1] - begin[1]


def timed(repeats: int, call: Callable[[], object]) -> Times:
    """Times of some calls, after one that compiles."""
    jax.block_until_ready(call())
    out = []
    for _ in range(repeats):
        begin = clocks()
        jax.block_until_ready(call())
        out.append(since(begin))
    return out


def show(name: str, steps: int, times: Times) -> float:
    """Prints a line; returns steps a second of processor time, which other programs do not disturb."""
    clock, processor = (sorted(steps / t[i] for t in times) for i in (0, 1))
    rate = statistics.median(processor)
    print(
        f"{name}: {rate:,.0f} steps a processor second ({processor[0]:,.0f} to {processor[-1]:,.0f}); "
        f"on the clock {statistics.median(clock):,.0f} ({clock[0]:,.0f} to {clock[-1]:,.0f})",
        flush=True,
    )
    return rate


def run_peer(
    folder: pathlib.Path, graphs: list, scripts: list[list[str]], ends: list
) -> list[float]:
    """Seconds that the peer takes for each world; its last graph must be ours."""
    inside = folder / "build_dataset/mcts/virtualhome/simulation"
    sys.path.insert(0, str(inside if inside.is_dir() else folder))
    from evolving_graph.environment import EnvironmentGraph
    from evolving_graph.execution import ScriptExecutor
    from evolving_graph.scripts import read_script_from_list_string

    clock = processor = 0.0
    for source, lines, end in zip(graphs, scripts, ends, strict=True):
        executor = ScriptExecutor(EnvironmentGraph(source), {})
        script = read_script_from_list_string(lines)
        begin = clocks()
        ok, state, _ = executor.execute(script, w_graph_list=False)
        took = since(begin)
        clock, processor = clock + took[0], processor + took[1]
        edges = {(e["from_id"], e["relation_type"], e["to_id"]) for e in state.to_dict()["edges"]}
        mine = {(e["from_id"], e["relation_type"], e["to_id"]) for e in end["edges"]}
        if not ok or edges != mine:
            raise SystemExit(f"the peer ends elsewhere: {executor.info.get_error_string()}")
    return [(clock, processor)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=pathlib.Path)
    parser.add_argument("--worlds", type=int, default=4096)
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--apartments", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peer_worlds", type=int, default=64)
    args = parser.parse_args()

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
    fast = show("vmapped and jitted", steps, timed(args.repeats, partial(many, worlds, scripts)))

    one = list(zip(loaded, scripts, strict=False))[:64]
    slow = show(
        "jitted, one world after the other",
        len(one) * LINES,
        timed(args.repeats, lambda: [actions.run(w, s) for w, s in one]),
    )
    print(f"vmapped over that: {fast / slow:.1f}x")
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
        times = run_peer(args.peer, graphs[:count], lines, ends)
        peer = show("peer, one world after the other", LINES * count, times)
        print(f"vmapped over the peer: {fast / peer:.0f}x; target 100x")


if __name__ == "__main__":
    main()
