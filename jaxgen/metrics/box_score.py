"""What a basketball sentence says of players' and teams' numbers, by rules.

Deterministic, so that tests and baselines have an exact reader; a learned one is
`jaxgen.evaluators.record_extractor`. Types are those of the RotoWire data (Wiseman et al., 2017; Wang et al., 2019).

    Heat ( 5 - 4 )              wins and losses of the team before it
    98 - 92, both from 60 on    points of the first two teams of the sentence
    3 - 5 FG, 3 - of - 5        made and attempted, of the kind that stands next to it
    20 points                   by the next word that names a statistic: within three words, before a comma

A number is the nearest name's of its class before it, else the nearest one's behind. The class is the player's, but
the team's for percentages, and for all numbers of a sentence that names no player.
"""

from collections.abc import Sequence

from jaxgen.data.style_records import Fact
from jaxgen.metrics.records import Names, is_number, words_of

PLAYER, TEAM = "PLAYER", "TEAM"
STATISTICS = {
    "point": "PTS",
    "assist": "AST",
    "dime": "AST",
    "rebound": "REB",
    "board": "REB",
    "steal": "STL",
    "block": "BLK",
    "blocked": "BLK",
    "minute": "MIN",
    "turnover": "TO",
    "foul": "PF",
    "percent": "PCT",
}
# Words that tell of which shots a share or a percentage is.
SHOTS = {
    "FG3": words_of("3pt 3 three threes 3-point beyond arc deep long downtown behind distance"),
    "FT": words_of("ft free throw throws line stripe charity foul"),
    "FG": words_of("fg field floor shooting shots overall"),
}
ENDS = words_of(", ) . and")  # of what a share of shots says of its kind
# Of teams that a sentence without players counts for.
TEAM_STATISTICS = {"PTS": "PTS", "AST": "AST", "REB": "REB", "TO": "TOV"}
LEAST_SCORE = 60  # of a team's final points
REACH = 3  # words from a number to the word that names its statistic


def extract(tokens: Sequence[str], names: Names) -> frozenset[Fact]:
    """The tuples of numbers that a sentence states.

    Args:
      tokens: words, as split in the data: "( 5 - 4 )" is five of them.
      names: of players and teams; others are unknown words. A number without any name of its class is nobody's,
        and not found.
    """
    return frozenset(_Reader(tokens, names).facts())


class _Reader:
    """One sentence: its numbers are read once each, the surest form first."""

    def __init__(self, tokens: Sequence[str], names: Names):
        self.words = [t.lower() for t in tokens]
        self.tokens, self.found = list(tokens), list[Fact]()
        self.used: set[int] = set()
        kinds = [names.classes.get(t) for t in tokens]
        self.names = {k: [i for i, kind in enumerate(kinds) if kind == k] for k in (PLAYER, TEAM)}

    def facts(self) -> list[Fact]:
        numbers = [i for i, w in enumerate(self.words) if is_number(w)]
        for read in (self._pair, self._counted):
            for i in numbers:
                if i not in self.used:
                    read(i)
        return self.found

    def _word(self, i: int) -> str:
        return self.words[i] if 0 <= i < len(self.words) else ""

    def _add(self, i: int, kind: str, name: str, owner: int | None) -> None:
        self.used.add(i)
        if owner is not None:
            self.found.append(Fact(f"{kind}-{name}", self.tokens[i], self.tokens[owner]))

    def _owner(self, i: int, kind: str) -> int | None:
        """Where the nearest name of a class stands: before i, else behind it."""
        before = [p for p in self.names[kind] if p < i]
        return before[-1] if before else next(iter(self.names[kind]), None)

    def _pair(self, i: int) -> None:
        """a - b, a - of - b, a of b."""
        j = i + 1
        while self._word(j) in ("-", "of", "for") and j - i < 4:
            j += 1
        between = self.words[i + 1 : j]
        if not between or not is_number(self._word(j)) or j in self.used:
            return
        a, b = int(self.words[i]), int(self.words[j])
        if between == ["-"]:
            if self._word(i - 1) == "(" and self._word(j + 1) == ")":
                owner = self._owner(i, TEAM)
                self._add(i, TEAM, "WINS", owner)
                self._add(j, TEAM, "LOSSES", owner)
                return
            if min(a, b) >= LEAST_SCORE:
                teams = self.names[TEAM][:2]
                for place, owner in zip((i, j), teams, strict=False):
                    self._add(place, TEAM, "PTS", owner)
                self.used |= {i, j}
                return
        shots = self._shots(j + 1)
        if a > b or not (shots or between != ["-"]):
            return
        owner = self._owner(i, PLAYER)
        self._add(i, PLAYER, f"{shots or 'FG'}M", owner)
        self._add(j, PLAYER, f"{shots or 'FG'}A", owner)

    def _shots(self, begin: int) -> str:
        """The kind of shots that the next words name."""
        for word in self.words[begin : begin + 5]:
            if word in ENDS or (is_number(word) and word != "3"):
                return ""
            for kind, known in SHOTS.items():
                if word in known:
                    return kind
        return ""

    def _counted(self, i: int) -> None:
        """A number and the statistic that the next words name."""
        for j in range(i + 1, i + 1 + REACH):
            word = self._word(j)
            if word == ",":
                return
            if word in ("pointer", "pointers"):
                name = "FG3M"
                break
            name = STATISTICS.get(word, "") or STATISTICS.get(word.removesuffix("s"), "")
            if name:
                break
        else:
            return
        kind = PLAYER if self.names[PLAYER] else TEAM
        if name == "PCT":
            kind, name = TEAM, f"{self._shots(j + 1) or 'FG'}_PCT"
        elif kind == TEAM:
            name = TEAM_STATISTICS.get(name, "")
        if not name:
            return
        self._add(i, kind, name, self._owner(i, kind))
