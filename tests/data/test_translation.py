import gzip

import pytest

from jaxgen.data import corpora
from jaxgen.data import translation as translation_data
from jaxgen.errors import ConfigError


def test_files_side_by_side(tmp_path):
    (tmp_path / "a.de").write_text("ein Hund\n\nzwei\ndrei\n")
    (tmp_path / "a.en.gz").write_bytes(gzip.compress(b"a dog\nnothing\ntwo\nthree\n"))
    names = ("a.de", "a.en.gz")
    parts = translation_data.load("files", path=str(tmp_path), train=names, valid=names, test=names)
    assert parts["train"].source == ["ein Hund", "zwei", "drei"]
    assert parts["test"].target == ["a dog", "two", "three"]
    few = translation_data.load(
        "files", path=str(tmp_path), train=names, valid=names, test=names, limit=1
    )
    assert len(few["train"]) == 1
    assert len(few["valid"]) == 3


def test_bad_files(tmp_path):
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("one\n")
    with pytest.raises(ConfigError, match=r"as many lines \(2 and 1\)"):
        translation_data.read_pairs(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ConfigError, match="none"):
        translation_data.read_pairs(tmp_path / "a", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"data\.train.*two file names"):
        translation_data.load("files", path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.source is 'web'"):
        translation_data.load("web")


def test_the_invented_language_is_another_and_one_to_one():
    parts = translation_data.load("grammar", limit=2000)
    assert {k: len(v) > 50 for k, v in parts.items()} == dict.fromkeys(parts, True)
    assert not set(parts["train"].target) & set(parts["test"].target)
    texts = [r.text for r in corpora.grammar(1000, seed=3)]
    foreign = [translation_data.invented(t) for t in texts]
    assert len(set(foreign)) == len(set(texts))
    assert translation_data.invented("well , we love the soup .") == "mmix , qaut ix iwum ijv ."
    assert all(len(a.split()) == len(b.split()) for a, b in zip(texts, foreign, strict=True))
    shared = set(" ".join(texts).split()) & set(" ".join(foreign).split())
    assert shared <= {",", ".", "!", "a", "i", "e"}


def test_pairs_never_shift(tmp_path):
    """What str.splitlines takes for line ends, blank lines, and the ends of other systems."""
    source = ["a0", "a1\u2028still", "", "a3\x0c", "a4\x85b", "  ", "a6\x00", "a7"]
    target = ["b0", "b1", "b2", "b3\x1cc", "", "b5", "b6", "b7\u2029"]
    (tmp_path / "a").write_bytes(("\ufeff" + "\r\n".join(source)).encode())
    (tmp_path / "b").write_bytes("\n".join(target).encode() + b"\n")
    pairs = translation_data.read_pairs(tmp_path / "a", tmp_path / "b")
    assert [(x[:2], y[:2]) for x, y in zip(pairs.source, pairs.target, strict=True)] == [
        (f"a{i}", f"b{i}") for i in (0, 1, 3, 6, 7)
    ]
    assert pairs.source[1] == "a1\u2028still"


def test_a_line_too_many_is_told(tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo\n\n")
    (tmp_path / "b").write_bytes(b"one\ntwo\n")
    with pytest.raises(ConfigError, match=r"as many lines \(3 and 2\)"):
        translation_data.read_pairs(tmp_path / "a", tmp_path / "b")


def test_nothing_to_translate_and_a_negative_limit(tmp_path):
    (tmp_path / "a").write_text("\none\n")
    (tmp_path / "b").write_text("one\n\n")
    (tmp_path / "none").write_text("")
    for names in (("a", "b"), ("none", "none")):
        with pytest.raises(ConfigError, match="at least one pair"):
            translation_data.read_pairs(*(tmp_path / name for name in names))
    with pytest.raises(ConfigError, match=r"data\.limit is -1"):
        translation_data.load("grammar", limit=-1)
