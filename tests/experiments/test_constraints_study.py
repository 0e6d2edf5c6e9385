"""The constraints study: what each system's loss is made of, who learns, what stops, and small whole runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.constraints import diffusion, digits, mnist, paper, templates, templates_yelp
from experiments.constraints import game, study, template_report
from experiments.constraints import images as image_task
from experiments.constraints import templates as template_task
from experiments.constraints.systems import SYSTEMS
from jaxgen.constraints import posterior
from jaxgen.errors import ConfigError
from jaxgen.text import blanks
from jaxgen.train import state as state_lib
from jaxgen.train import step as step_lib
from jaxgen.train.loop import NonFinite

TINY = {
    "train.steps": 4,
    "train.save_every": 4,
    "train.log_every": 1,
    "train.batch_size": 4,
    "start.steps": 4,
    "constraint.steps": 4,
    "judge.steps": 4,
}
SIZES = {
    "images": {
        "data.canvas": 16,
        "data.size": 12,
        "data.pairs": 12,
        "data.knowledge": 10,
        "data.judges": 20,
        "data.poses": 2,
        "data.test": 12,
        "model.width": 4,
        "constraint.width": 4,
        "constraint.samples": 2,
        "judge.width": 4,
    },
    "templates": {
        "data.limit": 3000,
        "data.test": 20,
        "model.width": 16,
        "model.depth": 1,
        "model.heads": 2,
        "constraint.width": 16,
        "constraint.heads": 2,
        "constraint.samples": 3,
        "judge.width": 16,
        "judge.depth": 1,
        "judge.heads": 2,
    },
}


def tiny(task, **changes):
    config = {"images": digits, "templates": templates, "diffusion": diffusion}[task].get_config()
    config.update_from_flattened_dict(TINY | SIZES[config.task] | changes)
    study.validate(config)
    return config


def batch_of(config):
    """Numbers of the right shapes, ids within a small vocabulary."""
    rng, out = np.random.default_rng(0), {}
    for name, a in study.problem_of(config).batch_shapes().items():
        if jnp.issubdtype(a.dtype, jnp.floating):
            out[name] = jnp.asarray(rng.random(a.shape), jnp.float32)
        elif config.task == "images":
            out[name] = jnp.asarray(rng.integers(1, 5, a.shape), jnp.int32)
        else:
            x = rng.integers(4, 20, a.shape)
            x[:, 6:] = 2  # the end
            out[name] = jnp.asarray(x, jnp.int32)
    return out


def made(config, name):
    """A system's task, the problem, and the model and constraint that it begins from."""
    config.data.vocab_size = 30 if config.task == "templates" else 0
    problem = study.problem_of(config)
    start = problem.build_model(jax.random.key(1))
    f = problem.build_constraint(jax.random.key(2))
    return game.task(problem, name, SYSTEMS[name], start, f), problem, start, f


def test_shipped_configs_are_valid():
    for module in (digits, mnist, diffusion, paper, templates, templates_yelp):
        study.validate(module.get_config())


@pytest.mark.slow
@pytest.mark.parametrize("task", ["images", "templates"])
@pytest.mark.parametrize("name", [n for n in SYSTEMS if n != "best_of_k"])
def test_a_systems_loss_is_its_terms_and_who_learns_moves(task, name):
    if task == "images" and name == "dpg":
        pytest.skip("a model without a density has no proposal")
    config, system = tiny(task, systems=("base",)), SYSTEMS[name]
    run, *_ = made(config, name)
    tx = step_lib.by_rate(run.rates, lambda factor: optax.sgd(0.1 * factor))

    def init(key):
        return state_lib.create(run.build, tx, key, use_ema=False, extra=run.extra)

    state = jax.jit(init)(jax.random.key(0))
    model = run.pretrained(state.model)
    state = type(state)(state.step, model, None, state.opt_state, state.extra, state.key)
    before = jax.tree.map(np.array, (state.model, state.extra))
    after, metrics = step_lib.make_step(run.loss, tx)(state, batch_of(config))
    m, c = {k: float(v) for k, v in metrics.items()}, config.constraint
    want = m["own"] + c.weight * m.get("theta", 0.0) + m.get("phi", 0.0)
    want += c.anchor * m.get("anchor", 0.0)
    assert m["loss"] == pytest.approx(want, rel=1e-4, abs=1e-5)
    assert ("anchor" in m) == system.anchor
    assert ("phi" in m) == (system.phi != "fixed")
    moved = [
        np.abs(a - b).max()
        for a, b in zip(*map(jax.tree.leaves, (before[0].model, after.model.model)), strict=True)
    ]
    assert np.mean(np.asarray(moved) > 0) > 0.3  # blocks begin as the identity, and pass none on
    frozen = {k: v for k, v in before[1].items() if k != "proposal"}
    for k, value in frozen.items():
        for a, b in zip(*map(jax.tree.leaves, (value, after.extra[k])), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (after.model.constraint is not None) == (system.phi != "fixed")
    if system.reward != "none":
        assert 1 - 1e-4 <= m["ess"] <= c.samples + 1e-4


@pytest.mark.slow
def test_the_models_gradient_does_not_depend_on_how_the_constraint_learns():
    """Phi gets its gradient from its own step alone, theta from the model's alone."""
    config = tiny("images")
    batch, grads = batch_of(config), {}
    for name in ("fixed", "learned", "m_step"):
        run, _, start, f = made(config, name)
        players = game.Players(start, f if name != "fixed" else None)
        loss = lambda p, run=run: run.loss(p, run.extra(), batch, jax.random.key(3), jnp.zeros(()))  # noqa: E731
        grads[name] = jax.jit(jax.grad(loss, has_aux=True))(players)[0]
    for name in ("learned", "m_step"):
        for a, b in zip(
            *map(jax.tree.leaves, (grads["fixed"].model, grads[name].model)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    of_learned, of_m_step = (
        jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads[n].constraint)])
        for n in ("learned", "m_step")
    )
    assert float(jnp.abs(of_learned - of_m_step).max()) > 1e-4


@pytest.mark.slow
def test_alpha_may_be_solved_for_a_sample_size():
    config = tiny("images", **{"constraint.target_ess": 1.5})
    run, problem, start, f = made(config, "fixed")
    batch = batch_of(config)
    _, (aux, _) = run.loss(
        game.Players(start, None), {"constraint": f}, batch, jax.random.key(0), jnp.zeros(())
    )
    x = problem.draw(start, batch, jax.random.split(jax.random.key(0))[0], 2)
    want = posterior.solve_alpha(problem.reward(f, x, batch), 1.5)
    assert float(aux["alpha"]) == pytest.approx(float(want), rel=1e-3)


def test_posed_data_is_disjoint_and_its_knowledge_is_upright_and_of_half_the_classes(tmp_path):
    data = image_task.load(tiny("images"), tmp_path)
    arrays = data.arrays()
    assert {len(a) for a in arrays.values()} == {12}
    np.testing.assert_array_equal(data.knowledge.source, data.knowledge.target)
    assert len(data.judges) == 40
    seen = {d.source[i].tobytes() for d in (data.pairs, data.knowledge) for i in range(len(d))}
    assert len(seen) == 22
    other = {d.source[i].tobytes() for d in (data.judges, data.test) for i in range(len(d))}
    assert len(other) == 32
    assert not seen & other
    with pytest.raises(ConfigError, match=r"data\.pairs is 5000, allowed: at most \d+ here"):
        image_task.load(tiny("images", **{"data.pairs": 5000}), tmp_path)


def test_parts_of_the_corpus_share_no_template(tmp_path):
    data = template_task.load(tiny("templates"), tmp_path)
    known = [set(part.template) for part in (data.mine, data.judged, data.test)]
    assert not known[0] & known[1]
    assert not (known[0] | known[1]) & known[2]
    for part in (data.mine, data.test):
        assert template_report.kept(part, part.text) == 1.0
        assert all(1 <= t.split().count(blanks.BLANK) <= 5 for t in part.template)
    ids = data.ids["test"]["template"]
    assert data.decode(ids) == data.test.template
    with pytest.raises(
        ConfigError, match=r"data\.source is 'grammar', allowed: sentences with 1 to"
    ):
        template_task.templates(["it was .", "they did that ."], tiny("templates"))


def test_overlap_of_fills():
    assert template_report.f1("a b b", "b c") == pytest.approx(2 * 1 / 5)
    assert template_report.f1("", "") == 0
    assert template_report.f1("a b", "b a") == 1


@pytest.mark.slow
def test_rewards_that_are_nan_stop_the_run_and_keep_the_last_checkpoint(
    tmp_path, one_device, monkeypatch
):
    config = tiny("images", systems=("learned",), **{"train.save_every": 2})
    honest = image_task.ImageProblem.reward_data

    def broken(self, f, batch):
        """Of the third batch on: the loss is traced once, so the step tells."""
        return honest(self, f, batch) + jnp.where(batch["target"].mean() > -1, jnp.nan, 0.0)

    study.train(config, tmp_path)
    config.train.steps = 8
    monkeypatch.setattr(image_task.ImageProblem, "reward_data", broken)
    (tmp_path / "results" / "learned-0.json").unlink()
    with pytest.raises(
        NonFinite, match=r"learned-0: metric .* is nan at step 5; the checkpoint of step 4 is kept"
    ):
        study.train(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["images", "templates", "diffusion"])
def test_a_run_is_reported_and_tested_again_from_checkpoints(task, tmp_path, one_device):
    systems = ("base", "best_of_k", "learned")
    config = tiny(task, systems=systems)
    study.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [r["system"] for r in results["systems"]] == [SYSTEMS[s].title for s in systems]
    rules, learned = results["floors"], results["systems"][-1]
    if config.task == "images":
        assert rules["real target"]["ssim"] == pytest.approx(1)
        assert rules["real target"]["l1"] == 0
        assert 0 <= learned["parser_after"] <= 1
        assert (tmp_path / "samples" / "pictures.png").exists()
        # The best of two draws is at least as good as the first one.
        assert results["systems"][1]["reward"] >= results["systems"][0]["reward"] - 0.1
    else:
        assert rules["real text"]["kept"] == 1.0
        assert rules["real text"]["content_f1"] == 1.0
        assert learned["perplexity"] > 1
    metrics = (tmp_path / "metrics.jsonl").read_text()
    assert '"ess"' in metrics
    assert '"log_partition"' in metrics
    study.evaluate_again(config, tmp_path)
    again = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert again == results["systems"]


@pytest.mark.parametrize(
    ("task", "field", "value", "message"),
    [
        ("images", "constraint.alpha", -1.0, r"constraint\.alpha is -1\.0, allowed: 0 or more"),
        ("images", "systems", ("dpg",), "systems is .*, allowed: some of base, best_of_k"),
        ("images", "constraint.target_ess", 9.0, r"constraint\.target_ess is 9\.0, allowed: 0, or"),
        ("images", "data.canvas", 30, r"data\.canvas is 30, allowed: a multiple of 8"),
        ("images", "model.gradient_steps", 99, r"model\.gradient_steps is 99, allowed: at most"),
        ("images", "task", "music", "task is 'music', allowed: one of images, templates"),
        ("templates", "constraint.samples", 1, r"constraint\.samples is 1, allowed: at least 2"),
        ("templates", "data.min_words", 20, r"data\.min_words is 20, allowed: at most"),
        ("templates", "constraint.delta", 0.0, r"constraint\.delta is 0\.0, allowed"),
        ("templates", "model.branch", "implicit", "systems is .*, allowed: no dpg without"),
        ("templates", "model.heads", 5, r"model\.heads is 5, allowed: a divisor of 96"),
    ],
)
def test_bad_values_are_named(task, field, value, message):
    config = {"images": digits, "templates": templates}[task].get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        study.validate(config)
