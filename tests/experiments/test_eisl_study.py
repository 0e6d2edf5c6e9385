"""Translation under noisy targets: a small whole run, and what it keeps."""

import json

import pytest

from configs.eisl import invented, multi30k
from experiments import eisl
from jaxgen.errors import ConfigError

TINY = {
    "train.steps": 3,
    "train.save_every": 3,
    "train.log_every": 3,
    "train.batch_size": 8,
    "finetune.steps": 2,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "model.dropout": 0.0,
    "data.limit": 300,
    "data.vocab_size": 80,
    "data.max_tokens": 16,
    "noise.kinds": ("blank",),
    "noise.levels": (0.0, 0.5),
}


def test_shipped_configs_are_valid():
    for module in (invented, multi30k):
        eisl.validate(module.get_config())


@pytest.mark.slow
def test_every_loss_in_every_cell_and_finished_cells_are_kept(tmp_path, monkeypatch, one_device):
    config = invented.get_config()
    config.update_from_flattened_dict(TINY)
    eisl.validate(config)
    eisl.train(config, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert {(r["loss"], r["level"]) for r in rows} == {
        (loss, level) for loss in ("start", *config.losses) for level in (0.0, 0.5)
    }
    assert all(0 <= r["bleu"] <= 100 for r in rows)
    monkeypatch.setattr(eisl, "run_cell", None)
    eisl.train(config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["systems"] == rows


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("noise.kinds", ("swap",), "noise.kinds"),
        ("noise.levels", (1.5,), "noise.levels"),
        ("losses", ("bleu",), "losses"),
        ("eisl.ngrams", (), "eisl.ngrams"),
        ("finetune.steps", 0, "finetune.steps is 0"),
    ],
)
def test_bad_fields(field, value, message):
    config = invented.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        eisl.validate(config)
