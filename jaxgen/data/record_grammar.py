"""Records of games, and sentences that state them exactly: content manipulation without files.

Players, teams and numbers are made up. A sentence is its record in a style: an opener, a verb, an order, words for
statistics, a way to list them, an end. Types and forms are those of the RotoWire data, so that
`jaxgen.metrics.box_score.extract` reads every sentence back without error: nothing of a record is unsaid, nothing
is said that is not in it, and no number of it stands for two things. As in that data, a reference is a train item's
own sentence whose record has about the same types, tuples stand in the order in which they are said, and of the
names some are rare.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxgen.data.style_records import Fact, Record, StyleRecords
from jaxgen.errors import require

KINDS = ("player", "players", "teams")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STARTS = _words(
    "Al Ber Cor Dar El Fen Gar Hol Ir Jor Kel Lor Mar Nor Or Per Quin Ros Sel Tor Ul Ver Wil Yor"
)
_ENDS = _words("ado bert en ick ino mond ston vard")
PLAYERS = tuple(a + b for a in _STARTS for b in _ENDS)
TEAMS = _words(
    "Anchors Badgers Comets Dragons Eagles Foxes Giants Herons Icebergs Jaguars Kites Lions Meteors Nomads Otters"
    " Pirates Quakes Ravens Saints Titans"
)
# Of each statistic: its words, the smallest and the largest number.
STATISTICS = {
    "PTS": (("points",), 2, 45),
    "REB": (("rebounds", "boards"), 2, 19),
    "AST": (("assists", "dimes"), 2, 16),
    "STL": (("steals",), 2, 9),
    "BLK": (("blocks",), 2, 9),
    "MIN": (("minutes",), 10, 44),
}
_OPENERS = (
    "",
    "on Friday ,",
    "at home ,",
    "off the bench ,",
    "once more ,",
    "in front of a full house ,",
    "after a slow start ,",
    "without much rest ,",
)
_VERBS = (
    "had",
    "finished with",
    "added",
    "posted",
    "ended up with",
    "recorded",
    "tallied",
    "collected",
    "came away with",
    "led the way with",
)
_SOURCES = ("came from", "were the work of", "belonged to")
_AMOUNTS = ("{n} {word}", "{n} {word}", "{n} big {word}", "a total of {n} {word}")
_LISTS = ((" , ", " and "), (" , ", " , and "), (" and ", " and "), (" , ", " plus "))
_JOINTS = ("while", "and", ", as", "; meanwhile ,")
_TAILS = (
    "",
    "in the win",
    "on the night",
    "to close the week",
    "in a quiet arena",
    "before a late scare",
    "for good measure",
)
_BEAT = ("beat", "edged", "got past", "ran over", "outlasted", "were too much for")


class _Item(NamedTuple):
    kind: str
    record: Record
    text: str


def load(
    *, train: int = 6000, valid: int = 300, test: int = 1000, seed: int = 0
) -> dict[str, StyleRecords]:
    """{"train", "valid", "test"} of so many items each; the references of all are sentences of train.

    Raises:
      ValueError: fewer than 100 train items, or a split without any.
    """
    require("train", train >= 100, train, "at least 100")
    require("valid and test", min(valid, test) >= 1, (valid, test), "at least 1")
    rng = np.random.default_rng(seed)
    items = [_item(rng) for _ in range(train + valid + test)]
    kinds = np.array([item.kind for item in items[:train]])
    sizes = np.array([len(item.record) for item in items[:train]])
    refs = []
    for own in items:
        near = np.flatnonzero((kinds == own.kind) & (abs(sizes - len(own.record)) <= 1))
        refs.append(_other(rng, near, own, items))
    out, begin = {}, 0
    for name, count in (("train", train), ("valid", valid), ("test", test)):
        mine, others = (side[begin : begin + count] for side in (items, refs))
        x, x_ref = ([item.record for item in side] for side in (mine, others))
        texts = ([item.text for item in side] for side in (mine, others))
        out[name] = StyleRecords(x, x_ref, *texts)
        begin += count
    return out


def _other(
    rng: np.random.Generator, near: Int[np.ndarray, " N"], own: _Item, items: Sequence[_Item]
) -> _Item:
    """One of the items that are near, with another sentence."""
    while True:
        item = items[rng.choice(near)]
        if item.text != own.text:
            return item


def _item(rng: np.random.Generator) -> _Item:
    kind = _pick(rng, KINDS)
    facts, body = _teams(rng) if kind == "teams" else _players(rng, 1 + (kind == "players"))
    words = f"{_pick(rng, _OPENERS)} {body} {_pick(rng, _TAILS)} .".split()
    record = tuple(sorted(facts, key=lambda fact: words.index(fact.value)))
    return _Item(kind, record, " ".join(words))


def _players(rng: np.random.Generator, count: int) -> tuple[list[Fact], str]:
    facts, clauses, used = [], [], set[str]()
    for player in _names(rng, PLAYERS, count):
        facts.append(Fact("PLAYER_NAME", player, player))
        parts = []
        most = 4 if count == 1 else 2
        for i in rng.permutation(len(STATISTICS))[: rng.integers(1, most + 1)]:
            name = list(STATISTICS)[i]
            words, low, high = STATISTICS[name]
            number = _unused(rng, low, high, used)
            facts.append(Fact(f"PLAYER-{name}", number, player))
            parts.append(_pick(rng, _AMOUNTS).format(n=number, word=_pick(rng, words)))
        comma, last = _LISTS[rng.integers(len(_LISTS))]
        listed = last.join([*[comma.join(parts[:-1])] * (len(parts) > 1), parts[-1]])
        # A number is the nearest name's before it, so a name may come last in a sentence of one.
        if count == 1 and rng.random() < 0.3:
            clauses.append(f"{listed} {_pick(rng, _SOURCES)} {player}")
        else:
            clauses.append(f"{player} {_pick(rng, _VERBS)} {listed}")
    return facts, f" {_pick(rng, _JOINTS)} ".join(clauses)


def _teams(rng: np.random.Generator) -> tuple[list[Fact], str]:
    first, second = _names(rng, TEAMS, 2)
    used = set[str]()
    low, high = sorted(int(_unused(rng, 70, 130, used)) for _ in range(2))
    facts = [Fact("TEAM_NAME", t, t) for t in (first, second)]
    facts += [Fact("TEAM-PTS", str(high), first), Fact("TEAM-PTS", str(low), second)]
    sides = []
    for team, told in ((first, rng.random() < 0.8), (second, rng.random() < 0.5)):
        sides.append(f"the {team}")
        if told:
            wins, losses = _unused(rng, 1, 50, used), _unused(rng, 1, 50, used)
            facts += [Fact("TEAM-WINS", wins, team), Fact("TEAM-LOSSES", losses, team)]
            sides[-1] += f" ( {wins} - {losses} )"
    score, verb = f"{high} - {low}", _pick(rng, _BEAT)
    forms = (
        f"{sides[0]} {verb} {sides[1]} {score}",
        f"{sides[0]} {verb} {sides[1]} by a score of {score}",
        f"with a {score} win , {sides[0]} {verb} {sides[1]}",
        f"it ended {score} as {sides[0]} {verb} {sides[1]}",
    )
    return facts, _pick(rng, forms)


def _names(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    """Different ones; the i-th is drawn with a weight of i ** -0.7."""
    weight = np.arange(1, len(names) + 1) ** -0.7
    return [names[i] for i in rng.choice(len(names), count, False, weight / weight.sum())]


def _unused(rng: np.random.Generator, low: int, high: int, used: set[str]) -> str:
    """A number that the record does not have yet."""
    left = [str(n) for n in range(low, high + 1) if str(n) not in used]
    number = _pick(rng, left)
    used.add(number)
    return number


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
