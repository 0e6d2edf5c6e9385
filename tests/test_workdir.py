"""A workdir belongs to the config it was trained with, but for the fields of its running."""

import pytest

from jaxgen.config import Config
from jaxgen.errors import ConfigError
from jaxgen.launch import check_workdir, write_config


def test_fields_of_the_running_may_change_on_a_trained_workdir(tmp_path):
    config = Config({"train": {"steps": 3, "keep": 2}, "mesh": {"data": 1}, "seeds": 1, "seed": 0})
    write_config(tmp_path, config)
    (tmp_path / "checkpoints" / "eddpm-0" / "5").mkdir(parents=True)
    runtime = ("mesh.", "seeds", "train.keep")
    other = config.copy_and_resolve_references()
    other.update({"seeds": 3, "mesh": {"data": 8}, "train": {"keep": 9}})
    assert not check_workdir(tmp_path, other, "train", runtime=runtime, may_begin=True)
    with pytest.raises(ConfigError, match=r"mesh\.data: 1 -> 8; seeds: 1 -> 3; train\.keep: 2"):
        check_workdir(tmp_path, other, "train", may_begin=True)
    other.seed = 4
    with pytest.raises(ConfigError, match=r"started with; seed: 0 -> 4$"):
        check_workdir(tmp_path, other, "train", runtime=runtime, may_begin=True)
