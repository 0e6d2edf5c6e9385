import numpy as np
import pytest

from jaxgen.data import language_model
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers


def test_every_token_but_the_first_is_predicted_once():
    lines = ["a b c", "d e", "a a a b"]
    tokenizer = tokenizers.train(lines, kind="word", vocab_size=20)
    got = language_model.windows(tokenizer, lines, 3)
    end = tokenizer.eos_token_id
    flat = []
    for line in lines:
        flat += [*tokenizer(line, add_special_tokens=False)["input_ids"], end]
    assert got.shape == (3, 4)
    assert got[:, 1:].ravel().tolist() == flat[1:10]
    assert np.array_equal(got[1:, 0], got[:-1, -1])
    with pytest.raises(ConfigError, match="context is 12, allowed: at most 11"):
        language_model.windows(tokenizer, lines, 12)
    with pytest.raises(ConfigError, match="context is 0, allowed: at least 1"):
        language_model.windows(tokenizer, lines, 0)


def test_parts_of_files_are_running_text(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {i}" for i in range(10)))
    (tmp_path / "b.txt").write_text("\n".join(f"line {i}" for i in range(10, 20)))
    parts = language_model.load(
        "files", path=str(tmp_path), files=("a.txt", "b.txt"), valid_fraction=0.1, test_fraction=0.2
    )
    assert [line for part in parts.values() for line in part] == [f"line {i}" for i in range(20)]
    assert [len(part) for part in parts.values()] == [14, 2, 4]


def test_offline_corpus():
    parts = language_model.load("english")
    assert min(map(len, parts.values())) > 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "web"}, "data.source is 'web', allowed: one of english, files"),
        ({"source": "files"}, "at least one file name"),
        ({"source": "files", "files": ("none.txt",)}, "none.txt"),
    ],
)
def test_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        language_model.load(**options, path=str(tmp_path))
