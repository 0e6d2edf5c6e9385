"""Rules of fields: types first, then ranges; and that no field of any config is without one."""

import ast
import pathlib

import ml_collections
import pytest

from configs import base
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen.config import Config
from jaxgen.diffusion import eddpm as eddpm_loss
from jaxgen.diffusion import schedule
from jaxgen.errors import ConfigError
from jaxgen.moe import gates
from jaxgen.train import step
from tests.experiments import builds

NEVER = (
    None,
    float("nan"),
    float("inf"),
    -(10.0**40),
    10**400,
    "",
    "word",
    (),
    (1,),
    [],
    b"1",
    object(),
)


@pytest.mark.parametrize("file", builds.STUDIES)
def test_every_field_of_every_config_is_named_by_its_study_and_has_a_rule(file):
    config = launch.load_config(file)
    builds.STUDIES[file].validate(config)
    names = builds.names_of(builds.STUDIES[file], config)
    assert {path for path, _ in config_lib.leaves(config)} == set(config_lib.paths(names))


@pytest.mark.parametrize("study", sorted(set(builds.STUDIES.values()), key=builds.command_of))
def test_fields_that_may_change_between_launches_are_fields(study):
    files = [file for file, module in builds.STUDIES.items() if module is study]
    known = {path for file in files for path, _ in config_lib.leaves(launch.load_config(file))}
    for prefix in study.RUNTIME:
        assert any(path.startswith(prefix) for path in known), prefix


@pytest.mark.parametrize("file", ["configs/eddpm/digits.py", "configs/moe/flexmoe.py"])
def test_a_field_that_is_missing_or_unknown_is_named(file):
    study, config = builds.STUDIES[file], launch.load_config(file)
    for path, value in list(config_lib.leaves(config)):
        section, _, name = path.rpartition(".")
        holder = config_lib.get(config, section) if section else config
        del holder[name]
        with pytest.raises(ConfigError, match=f"^{path} is None, allowed: a field of this name"):
            study.validate(config)
        holder[name] = value
    config.train.stepps = 3
    with pytest.raises(ConfigError, match=r"^train\.stepps is 3, .*; train\.steps is one$"):
        study.validate(config)


def _parents(file):
    """Modules of `configs` that a config file imports, `base` aside."""
    nodes = ast.walk(ast.parse(pathlib.Path(file).read_text(encoding="utf-8")))
    imports = [n for n in nodes if isinstance(n, ast.ImportFrom)]
    names = [(n.module, a.name) for n in imports for a in n.names]
    return [
        f"{module}.{name}".replace(".", "/") + ".py"
        for module, name in names
        if module.partition(".")[0] == "configs" and name != "base"
    ]


@pytest.mark.parametrize("file", builds.STUDIES)
def test_a_config_has_one_parent_at_most_and_says_its_command(file):
    parents = _parents(file)
    assert len(parents) <= 1
    assert not any(_parents(parent) for parent in parents)
    command = (
        f"    python -m experiments.{builds.command_of(builds.STUDIES[file])} --config={file} "
    )
    assert command in pathlib.Path(file).read_text(encoding="utf-8")


def test_configs_share_no_section():
    for file in builds.STUDIES:
        first, second = launch.load_config(file), launch.load_config(file)
        first.train.steps += 1
        first.mesh.data = 5
        assert second.to_dict() == launch.load_config(file).to_dict()


def test_a_change_that_fits_no_field_of_a_section_is_refused():
    assert base.train(steps=3).steps == 3
    assert base.eddpm(sigma_0=0).sigma_0 == 0.0
    with pytest.raises(KeyError, match="stepps"):
        base.train(stepps=3)
    with pytest.raises(TypeError, match="steps"):
        base.train(steps="many")


def test_whole_numbers_numbers_and_flags_are_told_apart():
    whole, real, flag = config_lib.integer(1, 8), config_lib.number(0.0, 2.0), config_lib.FLAG
    for rule, good, bad in (
        (whole, (1, 8), (0, 9, True, 2.0, *NEVER)),
        (real, (0, 1.5, 2), (-0.1, 2.1, True, *NEVER)),
        (flag, (True, False), (0, 1, "True", *NEVER)),
        (config_lib.POSITIVE, (1e-9, 1), (0, 1e-40, True, *NEVER)),
        (config_lib.FRACTION, (0, 0.99), (1, -0.1, False, *NEVER)),
        (
            config_lib.NGRAMS,
            ((1, 2), (-1,), [0]),
            ((1, 1), (-2,), (True,), (1.0,), (), "1", 3, None),
        ),
        (config_lib.one_of("a", "b"), ("a",), (("a",), *NEVER)),
        (config_lib.one_of(0, 8), (0, 8), (False, 8.0, *NEVER)),
        (
            config_lib.some_of("a", "b"),
            (("a",), ["b", "a"]),
            ("a", "ab", ("a", "a"), (["a"],), *NEVER),
        ),
        (config_lib.TEXT, ("", "a/b"), ("a\0b", "x" * 4096, "y" * 256, "\ud800", 3, None)),
    ):
        for value in good:
            config_lib.check(Config({"x": value}), {"x": rule})
        for value in bad:
            config = Config()
            with config.ignore_type():
                config.x = value
            with pytest.raises(ConfigError) as error:
                config_lib.check(config, {"x": rule})
            assert len(str(error.value).splitlines()) == 1
            assert len(str(error.value)) < 500


def test_a_placeholder_is_named():
    config = Config({"a": {"steps": ml_collections.config_dict.required_placeholder(int)}})
    for names in ({"a": "steps"}, {}):
        with pytest.raises(ConfigError, match=r"^a\.steps is None, allowed: a value"):
            config_lib.check_fields(config, names, {})


def test_choices_are_those_of_the_library():
    """`FIELDS` names them without importing what they choose from."""
    for field, known in (
        ("optimizer", step.OPTIMIZERS),
        ("train.schedule", step.SCHEDULES),
        ("schedule.kind", schedule.KINDS),
        ("weighting", eddpm_loss.WEIGHTINGS),
        ("alignment", eddpm_loss.ALIGNMENTS),
    ):
        test, allowed = config_lib.FIELDS[field]
        assert allowed == "one of " + ", ".join(known)
        assert all(map(test, known))
    for decay in ("exponential", "linear"):
        assert config_lib.FIELDS["dts.decay"][0](decay)
        gates.temperature_at(0, decay_steps=2, kind=decay)


def test_the_largest_seeds_make_keys_and_orders(key):
    import jax

    from jaxgen.data import pipeline

    largest = 2**63 - 2**24
    for seed, ok in ((0, True), (largest, True), (-1, False), (2**63, False), (2**64, False)):
        assert bool(config_lib.SEED[0](seed)) is ok
    jax.random.key(largest + 1_000_003)
    import numpy as np

    batch = next(pipeline.batches({"a": np.arange(4)}, 2, seed=largest + 1000))
    assert batch["a"].shape == (2,)


def test_numbers_that_runs_could_not_be_told_apart_by_are_one():
    """Runs are named after them, with six digits."""
    test, _ = config_lib.FIELDS["betas"]
    assert test((0.1, 0.100001))
    assert not test((0.1, 0.1000000001))
    assert not test((1, 1.0))
