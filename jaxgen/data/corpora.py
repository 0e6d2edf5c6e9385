"""Corpora that need no network: a probabilistic grammar with exact labels, and English prose.

The grammar writes short reviews whose sentiment, tense, formality and person are known and can be
read back from any sentence without error (`parse`), so that a judge of generated text is exact.
"""

import dataclasses
import re

import numpy as np

SENTIMENTS = ("negative", "positive")
TENSES = ("past", "present", "future")
FORMALITIES = ("informal", "formal")
PERSONS = ("first", "second", "third")

_OPENERS = (
    ("honestly", "man", "ok so", "yeah", "well", "no joke", "for real", "dude"),
    ("indeed", "certainly", "in our opinion", "without doubt", "furthermore", "moreover"),
)
_SUBJECTS = (
    ("i", "we", "my wife and i", "my team and i"),
    ("you", "you two", "all of you"),
    ("they", "the guests", "our neighbours", "the critics", "these people", "the children"),
)
# (past, base): the present of all subjects above is the base form.
_VERBS = (
    (
        ("hated", "hate"),
        ("disliked", "dislike"),
        ("regretted", "regret"),
        ("despised", "despise"),
        ("criticised", "criticise"),
        ("avoided", "avoid"),
    ),
    (
        ("loved", "love"),
        ("liked", "like"),
        ("enjoyed", "enjoy"),
        ("admired", "admire"),
        ("praised", "praise"),
        ("recommended", "recommend"),
    ),
)
_ADJECTIVES = (
    ("awful", "bland", "cold", "dirty", "rude", "stale", "terrible", "greasy", "boring", "broken"),
    ("great", "fresh", "warm", "clean", "kind", "tasty", "wonderful", "crisp", "lovely", "bright"),
)
_NOUNS = [
    "soup",
    "bread",
    "staff",
    "service",
    "room",
    "music",
    "table",
    "menu",
    "coffee",
    "view",
    "pizza",
    "salad",
    "garden",
    "hotel",
    "kitchen",
    "dessert",
    "breakfast",
    "waiter",
    "owner",
    "bar",
]
_PLACES = (
    "",
    "at the market",
    "near the station",
    "by the river",
    "in the old town",
    "on the corner",
    "at the airport",
    "in the village",
)
_TIMES = (
    ("last week", "yesterday", "in june", ""),
    ("every day", "on sundays", "these days", ""),
    ("tomorrow", "next month", "soon", ""),
)
_ENDS = ("!", ".")


@dataclasses.dataclass(frozen=True)
class Review:
    """A sentence with its labels, each an index into the tuple of that name above."""

    text: str
    sentiment: int
    tense: int
    formality: int
    person: int


def grammar(count: int, *, seed: int = 0, skew: float = 0.0) -> list[Review]:
    """Draws sentences `opener , subject verb the adjective noun place time end`.

    The labels are uniform and independent of each other and of everything else in the sentence.

    Args:
      skew: the i-th word (counted from 1) of those that may stand at a place is drawn with a weight of
        i ** -skew, Zipf's law. At 0 all are alike: no statistics would tell one noun from another.

    Raises:
      ValueError: for a count below 1, or a skew that is negative.
    """
    if count < 1:
        raise ValueError(f"count is {count}, allowed: at least 1")
    if not 0 <= skew < np.inf:
        raise ValueError(f"skew is {skew}, allowed: 0 or more, finite")
    rng = np.random.default_rng(seed)

    def place(size: int) -> int:
        if not skew:
            return int(rng.integers(size))
        heights = np.cumsum(np.arange(1, size + 1) ** -float(skew))
        return int(np.searchsorted(heights, rng.random() * heights[-1], side="right"))

    def pick(options: tuple[str, ...] | list[str]) -> str:
        return options[place(len(options))]

    out = []
    for _ in range(count):
        s, t, f, p = (int(rng.integers(n)) for n in (2, 3, 2, 3))
        past, base = _VERBS[s][place(len(_VERBS[s]))]
        verb = (past, base, f"will {base}")[t]
        words = [
            f"{pick(_OPENERS[f])} , {pick(_SUBJECTS[p])} {verb} the {pick(_ADJECTIVES[s])}",
            pick(_NOUNS),
            pick(_PLACES),
            pick(_TIMES[t]),
            _ENDS[f],
        ]
        out.append(Review(" ".join(w for w in words if w), s, t, f, p))
    return out


def _alternatives(words: tuple[str, ...] | list[str]) -> str:
    return "|".join(re.escape(w) for w in sorted(filter(None, words), key=len, reverse=True))


def _pattern() -> re.Pattern[str]:
    def group(name: str, options: tuple[tuple[str, ...], ...]) -> str:
        return "(?:" + "|".join(f"(?P<{name}{i}>{_alternatives(o)})" for i, o in enumerate(options))

    verbs = tuple(
        tuple(form for pair in _VERBS[s] for form in ((pair[0], pair[1], f"will {pair[1]}")[t],))
        for s in range(2)
        for t in range(3)
    )
    return re.compile(
        rf"{group('f', _OPENERS)}) , {group('p', _SUBJECTS)}) {group('v', verbs)}) "
        rf"the {group('a', _ADJECTIVES)}) (?:{_alternatives(_NOUNS)})"
        rf"(?: (?:{_alternatives(_PLACES)}))?(?: {group('t', _TIMES)}))? (?P<end>[!.])"
    )


_PATTERN = _pattern()


def parse(text: str) -> Review | None:
    """The labels of a sentence of the grammar; None where the grammar cannot have written it."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        return None
    hit = {k for k, v in match.groupdict().items() if v is not None}
    verb = next(int(k[1:]) for k in hit if k[0] == "v")
    sentiment, tense = divmod(verb, 3)
    formality = next(int(k[1:]) for k in hit if k[0] == "f")
    person = next(int(k[1:]) for k in hit if k[0] == "p")
    adjective = next(int(k[1:]) for k in hit if k[0] == "a")
    times = [int(k[1:]) for k in hit if k[0] == "t"]
    if adjective != sentiment or any(t != tense for t in times):
        return None
    if match["end"] != _ENDS[formality]:
        return None
    return Review(text.strip(), sentiment, tense, formality, person)


def english(*, min_words: int = 4, max_words: int = 40) -> list[str]:
    """Sentences of Python's documentation topics (`pydoc_data`), lower case, code left out.

    The corpus depends on the Python version: about 2,000 sentences.
    """
    from pydoc_data import topics

    out = []
    for name in sorted(topics.topics):
        for paragraph in re.split(r"\n\s*\n", topics.topics[name]):
            if re.match(r"\s{3,}|>>>|[*=\-~+|]{3}", paragraph.lstrip("\n")):
                continue  # indented code, tables, rules
            text = " ".join(paragraph.split())
            text = re.sub(r"[*_`\"“”]+", "", text)
            for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", text):
                if not min_words <= len(sentence.split()) <= max_words:
                    continue
                if re.fullmatch(r"[A-Za-z][A-Za-z0-9 ,.;:'()\-/]*[.!?]", sentence):
                    spaced = re.sub(r"([,.;:!?()])", r" \1 ", sentence.lower())
                    out.append(" ".join(spaced.split()))
    return list(dict.fromkeys(out))
