"""LatentOps: a small whole run in this process, the command line's edits, and the parts."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.latentops import grammar, yelp, yelp_paper
from experiments.latentops import guided, methods, study
from experiments.latentops.space import Space
from jaxgen.diffusion import schedule
from jaxgen.errors import ConfigError
from jaxgen.evaluators.attributes import LABELS
from jaxgen.latent_ode import priors
from jaxgen.models.attribute_heads import AttributeHeads, Operators

CHAIN = schedule.linear(200, beta_min=1e-4, beta_max=0.1)
TINY = {
    "spaces": ("vae",),
    "train.steps": 6,
    "train.save_every": 6,
    "train.log_every": 3,
    "train.batch_size": 16,
    "model.encoder_width": 16,
    "model.encoder_depth": 1,
    "model.encoder_heads": 2,
    "model.decoder_width": 16,
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
    "model.latent_dim": 8,
    "vae.token_deletion_rate": 0.1,
    "prior.gan_steps": 5,
    "operators.steps": 6,
    "operators.width": 8,
    "operators.keywords": 4,
    "judge.width": 16,
    "judge.depth": 1,
    "judge.heads": 2,
    "judge.steps": 6,
    "sgld.steps": 3,
    "sgld.edit_steps": 20,
    "predictor_corrector.steps": 3,
    "predictor_corrector.edit_steps": 3,
    "guided.steps": 4,
    "evaluate.count": 30,
    "evaluate.tune_count": 30,
    "evaluate.combinations": (("sentiment", "tense"),),
    "data.limit": 600,
}


def tiny(**changes):
    config = grammar.get_config()
    config.update_from_flattened_dict(TINY | changes)
    study.validate(config)
    return config


def test_shipped_configs_are_valid():
    for module in (grammar, yelp, yelp_paper):
        study.validate(module.get_config())


@pytest.mark.slow
def test_a_run_judges_every_method_and_edits_sentences(tmp_path, capsys, monkeypatch, one_device):
    config = tiny()
    study.train(config, tmp_path)
    assert "report: " in capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert len(rows) == sum(map(len, methods.GRIDS.values()))
    for row in rows:
        assert 0.0 <= row["accuracy"] <= 1.0
        assert row["failed"] == 0.0
        assert ("bleu" in row) == (row["task"] == "edit")
        assert row["guidance_strength"] in methods.GRIDS[row["task"]][row["system"]]
    floors = json.loads((tmp_path / "results.json").read_text())["floors"]
    assert [(r["task"], r["system"]) for r in floors] == [
        ("edit", "majority class"),
        ("edit", "copy of the input"),
        ("generate", "majority class"),
        ("generate", "data"),
    ]
    assert floors[1]["bleu"] == pytest.approx(100)
    assert floors[1]["accuracy"] == 0  # each sentence is asked for labels that it does not have
    assert "\n| copy of the input | 0.00 | 100 | " in (tmp_path / "report.md").read_text()
    assert "Cut: none of train, valid, test." in (tmp_path / "report.md").read_text()
    page = (tmp_path / "page.html").read_text()
    data = json.loads(page.split("const d = ")[1].split(", at = ")[0].replace("<\\/", "</"))
    # (nothing or 2 sentiments) x (or 3 tenses) x (or 2 formalities), less nothing at all, x 3.
    assert len(data["texts"]) == 3 * (3 * 4 * 3 - 1)
    assert all(len(v) == len(data["sources"]) for v in data["texts"].values())

    config.edit.text, config.edit.sentiment = "i loved the soup .", "negative"
    study.edit(config, tmp_path)
    assert len(capsys.readouterr().out.splitlines()) == 1
    config.edit.text, config.edit.sentiment, config.edit.keywords = "", "", "soup"
    monkeypatch.setattr("sys.stdin", __import__("io").StringIO("they hate the bar .\ni see\n"))
    with pytest.raises(ConfigError, match=r"edit.keywords is 'xyzzy', allowed: words of"):
        study.parts_of(
            tiny(**{"edit.keywords": "xyzzy"}),
            Operators(AttributeHeads(8, {}, width=8, depth=1, rngs=nnx.Rngs(0)), {}, (), ("soup",)),
        )
    config.edit.keywords = study.prepare(config, tmp_path, "vae", may_train=False)[2].words[0]
    config.ode.max_steps = 1
    with pytest.raises(ConfigError, match=r"2 of 2 sentences were not solved"):
        study.edit(config, tmp_path)
    assert capsys.readouterr().out.splitlines() == ["(not solved)"] * 2


def signs(config):
    """Operators whose logits are coordinates of the latent: 0 and 1 of sentiment, 2 to 4 of tense."""
    heads = AttributeHeads(8, {}, width=8, depth=1, rngs=nnx.Rngs(0))

    class Sign(nnx.Module):
        def __init__(self, place, count):
            self.dim, self.place, self.count = 8, place, count

        def __call__(self, u):
            return 4.0 * u[self.place : self.place + self.count]

    heads.nets = nnx.Dict({"sentiment": Sign(0, 2), "tense": Sign(2, 3)})
    eye = np.eye(8, dtype=np.float32)
    directions = {"sentiment": eye[:2], "tense": eye[2:5]}
    return Operators(heads, directions, tuple((n, LABELS[n]) for n in directions))


def test_methods_on_a_space_that_is_known():
    """Labels are signs of coordinates: the ODE and the shift reach them, no control does not."""
    config = tiny(**{"operators.attributes": ("sentiment", "tense")})
    operators = signs(config)
    rng = np.random.default_rng(0)
    u = rng.normal(size=(50, 8)).astype(np.float32)
    targets = {"sentiment": rng.integers(0, 2, 50), "tense": rng.integers(0, 3, 50)}
    task = methods.Task("edit", ("sentiment", "tense"), u, targets, None)
    moves = methods.make_moves(config, editing=True)
    reached = {}
    for name, move in moves.items():
        moved = methods.apply(move, operators, task, 0, 2.0, repeats=1)
        end = moved["u"]
        right = (end[:, :2].argmax(1) == targets["sentiment"]) & (
            end[:, 2:5].argmax(1) == targets["tense"]
        )
        reached[name] = right.mean()
        assert not moved["failed"].any()
        if name not in ("SGLD", "predictor-corrector"):  # nothing but the labels' coordinates moves
            assert np.allclose(end[:, 5:], u[:, 5:])
    assert reached["ODE"] == 1.0
    assert reached["SGLD"] > 0.9
    assert reached["linear shift"] > 0.5
    assert reached["no control"] < 0.4
    one = methods.Task("edit", ("tense",), u, targets, None)
    moved = methods.apply(moves["ODE"], operators, one, 0, 2.0)
    assert np.array_equal(moved["u"][:, :2], u[:, :2])


def test_a_guided_process_draws_what_operators_ask_for():
    """Of a standard normal, whose noise predictor is known; labels are signs of coordinates."""

    @dataclasses.dataclass(frozen=True)
    class Unit:
        latent_dim: int = 8

        def denoise(self, z, t):
            return jnp.sqrt(CHAIN.one_minus_alpha_bar[t])[:, None] * z

    jax.tree_util.register_dataclass(Unit, data_fields=(), meta_fields=("latent_dim",))
    config = tiny(**{"operators.attributes": ("sentiment", "tense"), "guided.steps": 100})
    operators = signs(config)
    unit = Space("eddpm", Unit(), priors.Gaussian(jnp.zeros(8), jnp.eye(8)), CHAIN)
    rng = np.random.default_rng(0)
    targets = {"sentiment": rng.integers(0, 2, 200), "tense": rng.integers(0, 3, 200)}
    task = methods.Task("generate", ("sentiment",), np.zeros((200, 8), np.float32), targets, None)
    move = functools.partial(guided.make(config), unit)
    share, spread = {}, {}
    for weight in (0.0, 2.0):
        moved = methods.apply(move, operators, task, 0, weight)
        end = moved["u"]
        share[weight] = (end[:, :2].argmax(1) == targets["sentiment"]).mean()
        spread[weight] = end[:, 2:].std(0)
        assert not moved["failed"].any()
        assert (moved["nfe"] == 100).all()
    assert abs(share[0.0] - 0.5) < 0.12  # three standard deviations of 200 coins
    assert share[2.0] > 0.95
    # What is not asked for stays standard normal; tense, which is off, too. 3 / sqrt(400).
    for value in spread.values():
        np.testing.assert_allclose(value, 1.0, atol=0.2)


def test_targets_differ_from_what_is_there():
    rng = np.random.default_rng(0)
    known = {"tense": np.array([0, 1, 2, -1] * 20)}
    got = methods.draw_targets(known, ("tense",), rng)["tense"]
    assert (got != known["tense"]).all()
    assert set(got.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spaces", ("gan",), "spaces is"),
        ("ode.rtol", 0.0, "ode.rtol is 0.0, allowed: above 0"),
        (
            "edit.sentiment",
            "angry",
            "edit.sentiment is 'angry', allowed: one of negative, positive",
        ),
        ("edit.person", "first", "edit.person is 'first'"),
        ("operators.attributes", ("colour",), "operators.attributes"),
        ("evaluate.combinations", (("person",),), "evaluate.combinations"),
        ("vae.cycles", 0, "vae.cycles is 0"),
        ("predictor_corrector.t_edit", 0.0, "t_edit is 0.0"),
    ],
)
def test_bad_fields(field, value, message):
    config = grammar.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        study.validate(config)


def test_an_empty_text_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", __import__("io").StringIO("good soup\n\n"))
    with pytest.raises(ConfigError, match=r"edit.text is '', allowed: at least one word"):
        study.edit(tiny(), tmp_path)
    assert not any(tmp_path.iterdir())
