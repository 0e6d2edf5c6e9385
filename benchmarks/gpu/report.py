"""Rows of measurements: made by parts, shown as one table, written as one JSON file."""

import dataclasses
import json
import pathlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import measure
from measure import Side, Times

COLUMNS = (
    "part",
    "size",
    "ours, ms (min to max)",
    "host, ms",
    "torch eager, ms",
    "torch.compile, ms",
    "eager / ours",
    "compile / ours",
    "max abs diff",
    "TFLOP/s",
    "of peak",
    "of bandwidth",
    "MiB beside arguments: ours, eager, compile",
)
PEERS = ("eager", "compile")


@dataclasses.dataclass
class Row:
    """One line of the table. Peers that were not measured have a reason in place of times."""

    part: str
    size: str
    ours: Times
    peers: dict[str, Times | str]
    gap: float | None
    flops: float | None
    bytes: float | None
    memory: dict[str, float]
    per: float
    note: str

    def ms(self, side: str = "ours") -> float | None:
        """Median milliseconds, of a unit where a call does several."""
        times = self.ours if side == "ours" else self.peers.get(side)
        return times.median / self.per if isinstance(times, Times) else None

    def ratio(self, peer: str) -> float | None:
        """The peer's time over ours, the median over rounds."""
        theirs = self.peers.get(peer)
        if not isinstance(theirs, Times):
            return None
        return statistics.median(b / a for a, b in zip(self.ours.whole, theirs.whole, strict=True))


@dataclasses.dataclass
class Report:
    """What parts get: the card, the libraries, the budget; and where their rows go."""

    card: measure.Card
    platform: str
    torch: Any
    no_peers: str
    small: bool
    files: Mapping[str, str]
    deadline: float
    path: pathlib.Path | None
    rows: list[Row] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    made: dict[tuple[Callable, bool], Callable] = dataclasses.field(default_factory=dict)
    begun: bool = False
    lock: Any = dataclasses.field(default_factory=threading.RLock)

    @property
    def device(self) -> str:
        """torch's name of the device that jax uses."""
        return "cuda" if self.platform == "gpu" else "cpu"

    def left(self) -> float:
        """Seconds of the budget."""
        return self.deadline - time.monotonic()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def tensor(self, x: Any, dtype: Any = None) -> Any:
        """An array as a tensor on the device."""
        return self.torch.tensor(measure.as_numpy(x), dtype=dtype or self.torch.float32).to(
            self.device
        )

    def compiled(self, f: Callable, *, graphs: bool = False) -> Callable:
        """torch.compile; `graphs` replays CUDA graphs. With --small the graph is traced, and runs as it is."""
        if (f, graphs) not in self.made:
            how = {"mode": "reduce-overhead"} if graphs else {}
            how = {"backend": "eager"} if self.small else how
            self.made[f, graphs] = self.torch.compile(f, dynamic=False, **how)
        return self.made[f, graphs]

    def side(self, run: Callable[[], object]) -> Side:
        """A peer's side."""
        if self.device == "cuda":
            return Side(run, lambda _: self.torch.cuda.synchronize())
        return Side(run, lambda _: None)

    def compare(
        self,
        part: str,
        size: str,
        ours: Callable[[], object],
        peers: Mapping[str, Callable[[], Callable[[], object]]] | None = None,
        *,
        gap: float | None = None,
        flops: float | None = None,
        bytes: float | None = None,
        memory: float | None = None,
        per: float = 1.0,
        need: float = 25.0,
        note: str = "",
    ) -> Row | None:
        """Times ours and the peers in turns, and adds the row; a failure of ours is told, and gives None.

        Args:
          peers: name -> what builds its function of nothing; built, and called once, before anything is timed.
          gap: of the gate.
          flops: of a call, for the share of the card's peak.
          bytes: that a call has to move at least, for the share of its bandwidth.
          memory: bytes that ours takes beside its arguments.
          per: units of work in a call (tokens); times are then of one.
          need: seconds that torch.compile may take here; without them left it is not tried.
        """
        sides, notes = {"ours": Side(ours)}, {}
        held = {} if memory is None else {"ours": memory / 2**20}
        try:
            jax.block_until_ready(ours())
        except Exception as e:
            self.fail(f"{part}, {size}", e)
            return None
        for name in PEERS:
            build = (peers or {}).get(name)
            if build is None:
                notes[name] = self.no_peers or "none"
            elif name == "compile" and not self.small and self.left() < need:
                notes[name] = "no time left"
            else:
                try:
                    sides[name], held[name] = self._first_call(build)
                except Exception as e:
                    notes[name] = f"failed: {short(e)}"
        times = measure.in_turns(
            sides, rounds=2 if self.small else 20, warmup=1 if self.small else 3
        )
        row = Row(
            part,
            size,
            times["ours"],
            {name: times.get(name, notes.get(name, "")) for name in PEERS},
            gap,
            flops,
            bytes,
            held,
            per,
            note,
        )
        with self.lock:
            self.rows.append(row)
            self.write()
        self.say(" | ".join(self.cells(row)))
        return row

    def _first_call(self, build: Callable[[], Callable[[], object]]) -> tuple[Side, float]:
        """The side, and the MiB that a call takes beyond what is there before it."""
        side = self.side(build())
        side.wait(side.run())
        if self.device != "cuda":
            return side, 0.0
        cuda = self.torch.cuda
        before = cuda.memory_allocated()
        cuda.reset_peak_memory_stats()
        side.wait(side.run())
        return side, (cuda.max_memory_allocated() - before) / 2**20

    def fail(self, part: str, e: Exception) -> None:
        self.failed[part] = short(e)
        self.say(f"{part} failed: {short(e)}")

    def skip(self, parts: list[str], why: str) -> None:
        """Parts that had no, or not enough, time: `why` goes on from the name."""
        self.skipped |= {part: why for part in parts}

    def code(self) -> int:
        """Of the process: 1 where a part failed."""
        return int(bool(self.failed))

    def heading(self) -> str:
        peak = "its peak is not known here, so no shares of it"
        if self.card.peak:
            peak = f"{self.card.peak / 1e12:.0f} TFLOP/s dense bf16 by its data sheet"
        return (
            f"{self.card.name}: {peak}, copies at "
            f"{self.card.bandwidth / 1e9:.0f} GB/s; jax {jax.__version__}, "
            f"torch {self.torch.__version__ if self.torch else f'not used ({self.no_peers})'}"
        )

    def cells(self, row: Row) -> list[str]:
        """A row as text, in the order of COLUMNS."""
        ms, each = row.ms(), [t / row.per for t in row.ours.whole]
        rate = row.flops / row.per / (ms * 1e-3) if row.flops else None
        peak = rate / self.card.peak if rate and self.card.peak else None
        moved = row.bytes / row.per / (ms * 1e-3) / self.card.bandwidth if row.bytes else None
        host = statistics.median(row.ours.host) / row.per

        def peer(name: str) -> str:
            value = row.ms(name)
            return str(row.peers[name]) if value is None else f"{value:.3g}"

        def maybe(value: float | None, form: str) -> str:
            return "-" if value is None else format(value, form)

        held = [row.memory.get(name) for name in ("ours", *PEERS)]
        return [
            row.part + (f" ({row.note})" if row.note else ""),
            row.size,
            f"{ms:.3g} ({min(each):.3g} to {max(each):.3g}, {len(each)})",
            f"{host:.3g}",
            *(peer(name) for name in PEERS),
            *(maybe(row.ratio(name), ".2f") for name in PEERS),
            maybe(row.gap, ".1e"),
            maybe(rate and rate / 1e12, ".3g"),
            maybe(peak, ".0%"),
            maybe(moved, ".0%"),
            ", ".join(maybe(m, ".0f") for m in held),
        ]

    def table(self) -> str:
        """Markdown, with what is missing below."""
        lines = [self.heading(), "", line(COLUMNS), line(["---"] * len(COLUMNS))]
        lines += [line(self.cells(row)) for row in self.rows]
        lines += ["", *(f"{part} failed: {why}" for part, why in self.failed.items())]
        lines += [f"{part} {why}" for part, why in self.skipped.items()]
        return "\n".join(lines)

    def write(self) -> None:
        """All there is so far, as JSON."""
        if self.path is None:
            return
        rows = [
            dataclasses.asdict(row) | {"ms": {n: row.ms(n) for n in ("ours", *PEERS)}}
            for row in self.rows
        ]
        whole = {
            "card": self.card._asdict(),
            "jax": jax.__version__,
            "torch": self.torch.__version__ if self.torch else self.no_peers,
            "small": self.small,
            "rows": rows,
            "failed": self.failed,
            "skipped": self.skipped,
        }
        self.path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

    def close(self) -> None:
        with self.lock:
            self.write()
            print(self.table(), flush=True)


def line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def short(e: Exception, most: int = 160) -> str:
    """Kind and text on one line that a table can hold."""
    text = " ".join(f"{type(e).__name__}: {e}".split()).replace("|", "/")
    return text if len(text) <= most else f"{text[:most]}..."
