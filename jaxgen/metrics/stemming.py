"""Porter's stemmer (1980) with the additions of NLTK, which ROUGE's scorers use: `ponies` and `pony` count as one."""

import functools
import re

_VOWELS = "aeiou"
_IRREGULAR = {
    form: stem
    for stem, forms in {
        "sky": "sky skies",
        "die": "dying",
        "lie": "lying",
        "tie": "tying",
        "news": "news",
        "inning": "innings inning",
        "outing": "outings outing",
        "canning": "cannings canning",
        "howe": "howe",
        "proceed": "proceed",
        "exceed": "exceed",
        "succeed": "succeed",
    }.items()
    for form in forms.split()
}
# Longer endings first, where one is the end of another.
_STEP2 = (
    *(("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize")),
    *(("bli", "ble"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous")),
    *(("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"), ("iveness", "ive")),
    *(("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble")),
    ("fulli", "ful"),
)
_STEP3 = (
    *(("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic")),
    *(("ful", ""), ("ness", "")),
)
_STEP4 = (
    *["al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"],
    *["ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize"],
)


def _consonants(word: str) -> str:
    """The word in letters c and v; `y` after a consonant is a vowel."""
    out = ""
    for letter in word:
        vowel = letter in _VOWELS or (letter == "y" and out[-1:] == "c")
        out += "v" if vowel else "c"
    return out


def _measure(stem: str) -> int:
    """How often a vowel is followed by a consonant."""
    return len(re.findall("vc", _consonants(stem)))


def _ends_cvc(word: str) -> bool:
    kinds = _consonants(word)
    return (kinds[-3:] == "cvc" and word[-1] not in "wxy") or (len(word) == 2 and kinds == "vc")


def _doubled(word: str) -> bool:
    return word[-2:-1] == word[-1:] and _consonants(word)[-1:] == "c"


@functools.lru_cache(maxsize=65_536)
def porter_stem(word: str) -> str:
    """The stem of a word in lower case."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    word = _plurals(word)
    word = _past(word)
    if word.endswith("y") and len(word) > 2 and _consonants(word[:-1])[-1] == "c":
        word = word[:-1] + "i"
    word = _step2(word)
    for end, new in _STEP3:
        if word.endswith(end):
            stem = word.removesuffix(end)
            word = stem + new if _measure(stem) > 0 else word
            break
    for end in _STEP4:
        if word.endswith(end):
            stem = word.removesuffix(end)
            fits = _measure(stem) > 1 and (end != "ion" or stem[-1:] in ("s", "t"))
            word = stem if fits else word
            break
    if word.endswith("e"):
        stem = word[:-1]
        if _measure(stem) > 1 or (_measure(stem) == 1 and not _ends_cvc(stem)):
            word = stem
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


def _plurals(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    for end, new in (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")):
        if word.endswith(end):
            return word.removesuffix(end) + new
    return word


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for end in ("ed", "ing"):
        stem = word.removesuffix(end)
        if word.endswith(end) and "v" in _consonants(stem):
            if stem.endswith(("at", "bl", "iz")):
                return stem + "e"
            if _doubled(stem):
                return stem if stem[-1] in "lsz" else stem[:-1]
            return stem + "e" if _measure(stem) == 1 and _ends_cvc(stem) else stem
    return word


def _step2(word: str) -> str:
    if word.endswith("alli") and _measure(word.removesuffix("alli")) > 0:
        return _step2(word[:-2])
    if word.endswith("alli"):
        return word
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for end, new in _STEP2:
        if word.endswith(end):
            stem = word.removesuffix(end)
            return stem + new if _measure(stem) > 0 else word
    return word
