import pytest

from jaxgen.data import docstrings
from jaxgen.errors import ConfigError


def test_prose_is_paragraphs_that_read_as_sentences():
    text = """A short line.

This paragraph is a sentence of more than eight words
over two lines.

    x = indented + code  # that is long enough to be taken for a paragraph of words.

- a list whose entry is a sentence of more than eight words in all.

Args: a = 1, b = 2, c = [3, 4, 5], d = {6: 7}, e = (8, 9), f = 10, g = 11, h = 12.
"""
    found = docstrings.prose(text)
    assert found == ["This paragraph is a sentence of more than eight words over two lines."]


def test_documents_are_modules_and_no_paragraph_is_there_twice():
    found = docstrings.documents(["json", "logging", "not_there"], least=10)
    assert len(found) >= 3
    paragraphs = [p for d in found for p in d.split("\n")]
    assert len(set(paragraphs)) == len(paragraphs)
    assert any("JSON" in d for d in found)
    assert docstrings.digest(found) == docstrings.digest(list(found))
    assert docstrings.digest(found) != docstrings.digest(found[1:])
    assert len(docstrings.digest(found)) == 16


def test_no_package_is_an_error():
    with pytest.raises(ConfigError, match=r"packages is \('not_there',\), allowed: names of inst"):
        docstrings.documents(["not_there"])
