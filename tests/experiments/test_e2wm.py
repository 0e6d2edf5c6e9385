"""Experience from a household world: the loss, what holds a model back, scores, errors, and a small whole run."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.e2wm import default, gpt_neo_1_3b, smollm2
from experiments.e2wm import authors, collect, corpus, evaluation, play, report, study, tasks
from experiments.e2wm.evaluation import Reader
from experiments.e2wm.systems import System, systems_of
from jaxgen.errors import ConfigError
from jaxgen.models import gpt2
from jaxgen.peft import ewc, lora
from jaxgen.text import tokenizers
from jaxgen.world import forms
from tests.world.houses import house

TINY = {
    "collect.planner": "breadth_first",
    "collect.worlds": 4,
    "collect.depth": 3,
    "collect.nodes": 30,
    "collect.examples": 4,
    "collect.test_examples": 2,
    "collect.events": 8,
    "pretrain.steps": 2,
    "train.steps": 2,
    "train.log_every": 2,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "model.positions": 512,
    "data.vocab_size": 600,
    "data.general_tokens": 16,
    "fisher.texts": 4,
    "evaluate.plan_tokens": 8,
    "evaluate.path_tokens": 4,
    "evaluate.batch_size": 8,
}
V, T = 17, 6


def tiny(**changes):
    config = default.get_config()
    config.update_from_flattened_dict(TINY | changes)
    study.validate(config)
    return config


def model_of(seed=0, positions=32, size=V):
    spec = gpt2.config(size, width=16, depth=1, heads=2, max_positions=positions)
    return gpt2.GPT(spec, rngs=nnx.Rngs(seed))


def batch_of(rows=4, seed=0):
    rng = np.random.default_rng(seed)
    weights = np.zeros((rows, T), np.float32)
    weights[: rows // 2, 3:] = 0.7
    weights[rows // 2 :, 4:] = 1.0
    return {
        "tokens": jnp.asarray(rng.integers(0, V, (rows, T)), jnp.int32),
        "weights": jnp.asarray(weights),
        "general": jnp.asarray(rng.integers(0, V, (rows, 9)), jnp.int32),
    }


def extra_of(model, system):
    """A Fisher information of ones, as `tasks.prepare` lays it out."""
    if not system.penalty:
        return {}
    if system.penalty == "separate":
        start = ewc.factors(model)
        return {"start": start, "fisher": ewc.ones(start)}
    if system.trains == "all":
        start = ewc.anchor(model)
        return {"start": start, "fisher": ewc.ones(start)}
    return {"start": {}, "fisher": ewc.ones(tasks.moved(model, system, {}))}


def loss_and_grad(config, system, model, batch):
    base = model_of()
    extra = extra_of(model, system)
    task = tasks.finetune_task(config, "x", system, base, 0, lambda: extra)

    def loss(model):
        value, (aux, _) = task.loss(model, extra, batch, jax.random.key(0), jnp.asarray(0))
        return value, aux

    (value, aux), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(model)
    return float(value), {k: float(v) for k, v in aux.items()}, grad


def adapted(config, *, busy=True):
    model = tasks.adapted(config, model_of(), 0)
    if busy:
        for _, _, _, layer in lora.layers(model, lora.LoRALinear):
            layer.b[...] = 0.05 * jax.random.normal(jax.random.key(3), layer.b.shape)
    return model


def test_shipped_configs_are_valid():
    for module in (default, smollm2, gpt_neo_1_3b):
        study.validate(module.get_config())


def test_the_loss_is_divided_by_the_number_of_weighted_tokens():
    """Weights 1 and 0.7 by hand; prompt tokens have no gradient."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    targets = jnp.asarray([[0, 1, 2], [3, 2, 1]])
    weights = jnp.asarray([[0, 0.7, 0.7], [0, 0, 1.0]])
    logp = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    want = -(0.7 * logp[0, 1, 1] + 0.7 * logp[0, 2, 2] + logp[1, 2, 1]) / 3
    value, grad = jax.value_and_grad(tasks.answer_loss)(logits, targets, weights)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    assert not np.asarray(grad)[0, 0].any()
    assert not np.asarray(grad)[1, :2].any()
    assert np.asarray(grad)[1, 2].any()
    assert float(tasks.answer_loss(logits, targets, jnp.zeros((2, 3)))) == 0


@pytest.mark.slow
def test_a_systems_loss_is_its_terms():
    config, batch = tiny(), batch_of()
    systems = systems_of(config)
    assert [n for n in systems if "ewc_lora" in n] == [
        f"ewc_lora_{s:g}" for s in config.ewc.strengths
    ]
    for system in systems.values():
        if system.trains == "nothing":
            continue
        model = adapted(config) if system.trains == "lora" else model_of(1)
        value, aux, _ = loss_and_grad(config, system, model, batch)
        want = aux.get("task", 0) + system.strength * aux.get("penalty", 0)
        want += config.replay.weight * aux.get("general", 0) + config.replay.kl_weight * aux.get(
            "kl", 0
        )
        assert value == pytest.approx(want, rel=1e-5)
        assert ("penalty" in aux, "kl" in aux) == (bool(system.penalty), system.general == "kl")
        if system.general == "only":
            assert aux.keys() == {"general"}


def test_lambda_0_is_lora_to_the_bit_and_a_large_one_is_the_base():
    config, batch = tiny(), batch_of()
    lam = lambda s: System("x", penalty="ewc", strength=s)  # noqa: E731
    plain = loss_and_grad(config, System("x"), adapted(config), batch)
    none = loss_and_grad(config, lam(0.0), adapted(config), batch)
    for a, b in zip(*map(jax.tree.leaves, (plain[2], none[2])), strict=True):
        np.testing.assert_array_equal(a, b)
    # At B = 0, and there alone, the penalty has no gradient; elsewhere it outweighs the task.
    model = adapted(config)
    _, _, grad = loss_and_grad(config, lam(1e9), model, batch)
    for (_, _, _, layer), (_, _, _, g) in zip(
        lora.layers(model, lora.LoRALinear), lora.layers(grad, lora.LoRALinear), strict=True
    ):
        down = (layer.b[...] * g.b[...]).sum() / (
            jnp.linalg.norm(layer.b[...]) * jnp.linalg.norm(g.b[...])
        )
        assert float(down) > 0.5, "a step against the gradient leads towards b = 0"


def test_dropout_of_the_updates_changes_what_they_learn_from():
    """By one field; where the updates are zero, there is nothing to drop."""
    batch = batch_of()
    plain, dropped = tiny(), tiny(**{"lora.dropout": 0.5})
    a, b = (loss_and_grad(c, System("x"), adapted(c), batch)[0] for c in (plain, dropped))
    assert abs(a - b) > 1e-4
    a, b = (
        loss_and_grad(c, System("x"), adapted(c, busy=False), batch)[0] for c in (plain, dropped)
    )
    assert a == pytest.approx(b, abs=1e-6)


def test_kl_to_the_base_is_0_at_the_start_and_above_it_elsewhere():
    config = tiny()
    windows = batch_of()["general"]
    assert float(tasks.kl_to_base(adapted(config, busy=False), windows)) == pytest.approx(
        0, abs=1e-6
    )
    model, base = adapted(config), model_of()
    p, q = (jax.nn.log_softmax(m(windows[:, :-1])[0]) for m in (base, model))
    want = float((jnp.exp(p) * (p - q)).sum(-1).mean())
    assert float(tasks.kl_to_base(model, windows)) == pytest.approx(want, rel=1e-3)
    assert want > 1e-5


def test_all_systems_of_a_seed_begin_from_the_same_updates():
    config, base = tiny(), model_of()
    once, again = tasks.adapted(config, base, 3), tasks.adapted(config, base, 3)
    for a, b in zip(*map(jax.tree.leaves, (once, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    other = tasks.adapted(config, base, 4)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (once, other)), strict=True))


def reader_of(model, lines):
    tokenizer = tokenizers.train(lines, kind="word", vocab_size=64)
    made = corpus.Corpus(tokenizer, {}, {}, collect.Experience({}, {}, {}), "", {}, 32)
    return Reader(model, made, 4)


def test_option_scores_are_those_of_the_logits():
    lines = ["A B C D E F : Answer:"]
    reader = reader_of(model_of(size=64), lines)
    rows = [{"input": "A B :", "answer": "C", "answer_list": ["C", "D E"]}]
    found = reader.logprobs(["A B :", "A B :"], ["C", "D E"])
    assert [len(f) for f in found] == [1, 2]
    ids = reader.corpus.ids(["A B : D E"])[0]
    logp = jax.nn.log_softmax(reader.model(jnp.asarray([ids]))[0][0])
    np.testing.assert_allclose(found[1], [logp[2, ids[3]], logp[3, ids[4]]], rtol=1e-4)
    ln = [found[0].mean(), found[1].mean()]
    assert reader.choose(rows, "ln") == [["C", "D E"][int(np.argmax(ln))]]
    free = reader.logprobs(["Answer:"] * 2, ["C", "D E"])
    un = [a.sum() - b.sum() for a, b in zip(found, free, strict=True)]
    assert reader.choose(rows, "un") == [["C", "D E"][int(np.argmax(un))]]


@pytest.mark.slow
def test_choices_are_those_of_transformers_on_the_same_weights(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers")
    from jaxgen.models import hf

    lines = ["A B C D E F : Answer:"]
    model = model_of(size=64)
    reader = reader_of(model, lines)
    hf.save(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt, options = "A B :", ["C", "D E", "F F F"]
    ours = reader.logprobs([prompt] * 3, options)
    for option, got in zip(options, ours, strict=True):
        ids = reader.corpus.ids([f"{prompt} {option}"])[0]
        with torch.no_grad():
            logp = torch.log_softmax(theirs(torch.tensor([ids])).logits[0], -1)
        start = len(ids) - len(got)
        want = [float(logp[i - 1, ids[i]]) for i in range(start, len(ids))]
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_texts_are_written_up_to_the_end_of_the_line():
    reader = reader_of(model_of(size=64), ["A B C D E F : Answer:"])
    out = reader.write(["A B :", "A :"], max_tokens=4)
    assert len(out) == 2
    assert all("\n" not in t and len(t.split()) <= 4 for t in out)
    # Padding on the left changes nothing.
    assert reader.write(["A :"], max_tokens=4) == out[1:]


def test_a_prompt_longer_than_the_positions_is_refused():
    reader = reader_of(model_of(size=64), ["A B C D E F : Answer:"])
    with pytest.raises(
        ConfigError, match="prompt to evaluate on: tokens is 41, allowed: at most 32"
    ):
        reader.logprobs(["A " * 40], ["B"])
    with pytest.raises(
        ConfigError, match=r"tokens is 35, allowed: at most 32, as model\.positions"
    ):
        reader.write(["A " * 31], max_tokens=4)
    rows = {"plan": [{"input": "A " * 40, "ref": "B"}]}
    with pytest.raises(ConfigError, match="prompt to train on: tokens is 42, allowed: at most 32"):
        corpus.encode(reader.corpus.tokenizer, rows, {"plan": 1.0}, 32)


def test_rows_weigh_answers_and_the_end_token_alone():
    tokenizer = tokenizers.train(["A B C :"], kind="word", vocab_size=32)
    rows = {
        "plan": [{"input": "A :", "ref": "B"}],
        "recognise": [{"input": "A B C :", "ref": "C B"}],
    }
    made = corpus.encode(tokenizer, rows, {"plan": 1.0, "recognise": 0.7}, 32)
    np.testing.assert_allclose(made["weights"][0], [0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(made["weights"][1], [0, 0, 0, 0, 0.7, 0.7, 0.7, 0])
    _, end, pad = tokenizers.special_ids(tokenizer)
    assert made["tokens"][0, 3:].tolist() == [end, *[pad] * 4]


def test_an_activity_of_the_tests_may_not_be_trained_on():
    example = forms.Example("cup. The cup is in the kitchen.", "feed cat", "Grab cup.")
    row = forms.row("plan", example._replace(subject="read book"), [example])
    collect.check_held_out([row], ["watch television"])
    with pytest.raises(
        ConfigError, match="activity to train on is 'feed cat', allowed: activities"
    ):
        collect.check_held_out([row], ["feed cat"])


def test_cutting_worked_examples():
    cut = authors.by_marker("Q: ")
    prompt = "Say.\n\nQ: one? A: 1\n\nQ: two? A: 2\n\nQ: three? A:"
    assert cut(prompt, 0) == "Say.\n\nQ: three? A:"
    assert cut(prompt, 1) == "Say.\n\nQ: two? A: 2\n\nQ: three? A:"
    assert cut(prompt, 5) == prompt
    assert authors.by_marker("\n\n")("a\n\nb\n\nc", 1) == "b\n\nc"


def test_a_system_is_dominated_by_one_that_forgets_less_and_knows_more():
    points = {"a": (0.1, 0.5), "b": (0.2, 0.4), "c": (0.05, 0.3), "d": (0.1, 0.5)}
    assert report.not_dominated(points) == ["a", "c", "d"]


def test_playing_says_what_changed_and_why_not():
    out = io.StringIO()
    lines = ["grab cup", "walk table", "grab cup", "putback cup table", "look cup", "fly cup"]
    lines += ["grab", "grab unicorn", "[Grab] <cup> (99)", "[Grab] <cup>", "quit", "grab cup"]
    world = play.session(house(), lines, out)
    told = out.getvalue()
    assert "not done: not close" in told
    assert "+ character 3 holds_rh cup 7" in told
    assert "+ cup 7 on table 6" in told
    assert "verb is 'fly', allowed: walk" in told
    assert "things after grab is 0, allowed: 1" in told
    assert "class is 'unicorn', allowed: bed" in told
    assert "id is 99, allowed: the id of a node of the graph" in told
    assert "allowed: [Verb] <class> (id)" in told
    assert int(world.edges.sum()) > 0


def test_play_ends_with_its_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("look\nverbs\n"))
    play.play(tiny(), None)
    assert "holding nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "collect.planner",
            "greedy",
            "collect.planner is 'greedy', allowed: one of search, breadth",
        ),
        ("systems", ("lora",), r"systems is \('lora',\), allowed: base among them"),
        ("systems", ("rlhf",), "systems is .*, allowed: some of base, full"),
        ("fisher.labels", "true", "fisher.labels is 'true', allowed: one of data, model"),
        (
            "ewc.strengths",
            (1.0, 1.0),
            "ewc.strengths is .*, allowed: numbers, 0 or more, each once",
        ),
        ("lora.targets", ("(",), r"lora.targets is \('\(',\), allowed: one or more regular"),
        ("model.heads", 5, "model.heads is 5, allowed: a divisor of 16"),
        ("data.general_tokens", 1024, "data.general_tokens is 1024, allowed: at most model.positi"),
        ("replay.share", 0.0, r"replay.share is 0.0, allowed: above 0"),
    ],
)
def test_bad_fields(field, value, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**{field: value})


@pytest.mark.slow
def test_a_small_whole_run_and_again(tmp_path, one_device):
    folder = tmp_path / "text"
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = np.array(
        [
            "the",
            "a",
            "cat",
            "dog",
            "sits",
            "walks",
            "on",
            "under",
            "mat",
            "tree",
            "and",
            "then",
            "quickly",
        ]
    )
    for i in range(60):
        text = "\n\n".join(" ".join(rng.choice(words, 40)) + "." for _ in range(4))
        (folder / f"{i}.txt").write_text(text)
    names = ("base", "ewc_lora", "separate")
    config = tiny(**{"data.general_path": str(folder), "systems": names, "ewc.strengths": (0.1,)})
    study.run(config, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = {r["name"]: r for r in results["systems"]}
    assert list(rows) == ["base", "ewc_lora_0.1", "separate"]
    assert rows["base"]["rise"] == 0
    assert all(np.isfinite(r["nll"]) and 0 <= r["score"] <= 1 for r in rows.values())
    assert results["fisher_sum"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Not dominated" in page
    assert (tmp_path / "run" / "samples" / "pareto.png").stat().st_size > 1000
    assert (tmp_path / "run" / "samples" / "plan.png").stat().st_size > 1000
    data = corpus.load(config, tmp_path / "run")
    # What search found is done to its end and meets all goals, in words too.
    for split, households in data.experience.households.items():
        done = evaluation.carried_out([h.plan for h in households], households)
        assert done == {"executable": 1.0, "goals_met": 1.0, "goals": 1.0}, split
    questions = {r["input"] for r in data.experience.train["plan"]}
    asked = {r["input"] for s in collect.PLAN_SPLITS for r in data.experience.tests["plan", s]}
    assert not questions & asked
    again = study.MODES["eval"]
    again(config, tmp_path / "run")
    twice = json.loads((tmp_path / "run" / "results.json").read_text())["systems"]
    assert [r["nll"] for r in twice] == [r["nll"] for r in results["systems"]]
