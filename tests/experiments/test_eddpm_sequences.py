"""The study on text and proteins: small whole runs in this process, and its parts."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.eddpm import antibody, grammar, peptides, yelp, yelp_paper
from experiments.common import fields, text, text_model
from experiments.eddpm import protein_ascent, sequence_scores, sequences, study, systems
from jaxgen.data import corpora
from jaxgen.data.tokens import TokenShape, about_cuts
from jaxgen.errors import ConfigError
from jaxgen.models import bert, gpt2, hf
from jaxgen.text import tokenizers
from jaxgen.train.state import parameter_count

TINY = {
    "train.steps": 6,
    "train.save_every": 3,
    "train.log_every": 3,
    "train.batch_size": 16,
    "train.warmup": 2,
    "model.encoder_width": 16,
    "model.encoder_depth": 1,
    "model.encoder_heads": 2,
    "model.decoder_width": 16,
    "model.decoder_depth": 1,
    "model.decoder_heads": 2,
    "model.latent_dim": 8,
    "model.denoiser_width": 16,
    "model.denoiser_depth": 2,
    "judge.width": 16,
    "judge.depth": 1,
    "judge.heads": 2,
    "judge.steps": 6,
    "judge.reverse_steps": 4,
    "judge.test_rows": 40,
    "judge.probe_rows": 100,
    "sample.count": 30,
    "sample.steps": 4,
    "ascent.count": 8,
    "ascent.steps": 3,
    "ascent.stages": 2,
    "ascent.width": 16,
    "ascent.train_steps": 5,
    "ascent.batch_size": 16,
    "data.limit": 400,
    "vae.betas": (1.0,),
}


MEASURES = (
    "generation",
    "self_bleu",
    "distinct_2",
    "grammatical",
    "mauve",
    "diversity",
    "memorised",
)


def tiny(module, **changes):
    config = module.get_config()
    config.update_from_flattened_dict(TINY | changes)
    study.validate(config)
    return config


def test_shipped_configs_are_valid():
    for module in (grammar, yelp, yelp_paper, peptides, antibody):
        study.validate(module.get_config())


def test_autoencoders_have_the_same_number_of_parameters():
    config = grammar.get_config()
    networks = sequences.SequenceNetworks(config, TokenShape(50, 50, 12, 2, 3, 1, 0))
    counts = [
        parameter_count(jax.eval_shape(task.build, jax.random.key(0)))
        for task in (
            systems.eddpm_task(config, networks),
            systems.vae_task(config, networks, 1.0, with_mlp=True),
            systems.vae_task(config, networks, 1e-3, with_mlp=False),
        )
    ]
    assert counts[1] == counts[2]
    assert abs(counts[0] / counts[1] - 1) < 0.02


@pytest.mark.slow
def test_text_run_reports_all_three_capabilities_and_resumes(tmp_path, capsys, one_device):
    config = tiny(grammar, systems=("eddpm", "lm"))
    study.train(config, tmp_path)
    assert "report: " in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {r["system"]: r for r in results["systems"]}
    assert list(rows) == ["EDDPM", "LM"]
    for name, row in rows.items():
        for metric in (*MEASURES, "probe_accuracy"):
            assert np.isfinite(row[metric]), (name, metric)
        assert row["generation"] ** 2 == pytest.approx(row["sample_ppl"] * row["reverse_ppl"])
        assert ("bleu" in row) == (name != "LM")
    assert set(results["mean_rank"]) == {"EDDPM"}
    assert results["real"]["grammatical"] == 1.0
    assert 0.5 < results["real"]["mauve"] <= 1.0  # untrained systems are far below
    assert 0.0 < results["real"]["memorised"] < 1.0  # of test sentences, not of train's own
    floors = results["floors"]
    assert floors["copy of the input"]["bleu"] == pytest.approx(100)
    assert 0 < floors["constant consensus"]["token_accuracy"] < 1
    data = text.load(config, tmp_path)
    most = np.bincount(data["train"].label).argmax()
    test = data["test"].take(40).label
    assert floors["majority class"]["probe_accuracy"] == np.mean(test == most)
    assert floors["unigram"]["reverse_ppl"] < 200  # of at most 200 words
    assert floors["data"]["grammatical"] == 1.0
    report = (tmp_path / "report.md").read_text()
    assert report.count("Interpolation") == 5
    for rule in floors:
        assert f"\n| {rule} | " in report
    assert "Cut: none of train, valid, test. Left out: nothing.\n" in report
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()
    trained = (tmp_path / "metrics.jsonl").read_text()
    study.evaluate_again(config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["systems"] == results["systems"]
    assert (tmp_path / "metrics.jsonl").read_text() == trained
    config.systems = ("eddpm",)
    study.sample(config, tmp_path)
    assert len((tmp_path / "samples" / "EDDPM-new.txt").read_text().split("\n")) == 31


@pytest.mark.slow
def test_proteins_of_another_alphabet_run(tmp_path, one_device):
    rng = np.random.default_rng(0)
    letters = list("ACDEFGHIKLMNPQRSTVWYX*")
    rows = ["".join(rng.choice(letters, 64)) for _ in range(150)]
    table = "\n".join(["seq,score", *(f"{s},{rng.normal():.4f}" for s in rows)])
    (tmp_path / "gfp.csv").write_text(table + "\n")
    config = tiny(
        peptides,
        **{
            "data.source": "csv",
            "data.path": str(tmp_path),
            "data.train": ("gfp.csv",),
            "systems": ("eddpm", "two_stage"),
        },
    )
    study.train(config, tmp_path / "w")
    results = json.loads((tmp_path / "w" / "results.json").read_text())
    for row in results["systems"]:
        assert {"token_accuracy", "valid", "novel", "predicted_value", "probe_r2"} <= set(row)
        assert row["regressor_r2"] <= 1.0
        assert -1.0 <= row["regressor_spearman"] <= 1.0
    report = (tmp_path / "w" / "report.md").read_text()
    assert "gradient ascent" in report
    assert "Cut: none of train, valid, test. Left out: nothing.\n" in report
    assert "ascent by ODE" in report
    assert "substitutions" in report
    assert report.count("\n| constant consensus | ") == 2  # of reconstruction, and of ascent
    eddpm = next(r for r in results["systems"] if r["system"] == "EDDPM")
    assert np.isfinite(eddpm["gradient_ascent_value"])
    (tmp_path / "gfp.csv").write_text(table + "\nACD\n")
    with pytest.raises(ConfigError, match=r"gfp\.csv, line 152"):
        study.train(config, tmp_path / "w2")
    assert not (tmp_path / "w2").exists()


def test_what_is_cut_is_counted(tmp_path):
    config = tiny(grammar, **{"data.max_tokens": 12, "data.max_words": 16})
    data = text.load(config, tmp_path)
    texts = [r.text.split() for r in corpora.grammar(400)]
    kept = [t for t in texts if len(t) <= 16]
    read = [part.read for part in data.values()]
    assert sum(r.rows for r in read) == len(kept) < len(texts)
    assert sum(r.cut for r in read) == sum(len(t) > 11 for t in kept) > 0
    assert sum(r.tokens for r in read) == sum(map(len, kept))
    assert sum(r.lost for r in read) == sum(max(len(t) - 11, 0) for t in kept)
    line = about_cuts(data)
    assert f"Left out: {len(texts) - len(kept)} texts of more than 16 words.\n" in line
    assert data["test"].take(3).read == data["test"].read


def test_pretrained_folders_fill_encoder_and_decoder(tmp_path):
    """Two tokenizers, two checkpoints: the fresh model gets their weights, bit for bit."""
    lines = [r.text for r in corpora.grammar(200)]
    read = bert.Bert(
        bert.config(90, width=16, depth=1, heads=2, max_positions=32), rngs=nnx.Rngs(1)
    )
    write = gpt2.GPT(
        gpt2.config(140, width=16, depth=2, heads=2, max_positions=40), rngs=nnx.Rngs(2)
    )
    for name, model, kind, size in (
        ("bert", read, "wordpiece", 90),
        ("gpt", write, "word", 140),
    ):
        hf.save(model, tmp_path / name)
        tokenizer = tokenizers.train(lines, kind=kind, vocab_size=size)
        tokenizer.save_pretrained(tmp_path / name)
    config = tiny(
        grammar,
        **{
            "model.encoder_path": str(tmp_path / "bert"),
            "model.decoder_path": str(tmp_path / "gpt"),
        },
    )
    data = text.load(config, tmp_path / "w")
    train = data["train"]
    assert train.vocabulary.source_size == 90
    assert train.x["source"].shape == train.x["target"].shape
    assert not np.array_equal(train.x["source"], train.x["target"])
    networks = sequences.SequenceNetworks(config, train.vocabulary)
    model = networks.pretrained(networks.build(nnx.Rngs(0), predict_variance=False))
    for ours, theirs in ((model.encoder.bert, read), (model.decoder.gpt, write)):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), ours, theirs)
        assert all(jax.tree.leaves(same))
    x = {k: jnp.asarray(a[:3]) for k, a in train.x.items()}
    z = model.encode(x)
    logp = model.decode_logprob(x, z, jax.random.key(0))
    assert z.shape == (3, 8)
    assert logp.shape == (3,)
    assert (logp < 0).all()


def test_valid_proteins_have_gaps_at_the_ends_only():
    assert sequence_scores.valid_protein("JJACDEJ", 3, 5)
    assert not sequence_scores.valid_protein("JACJDEJ", 3, 6)
    assert not sequence_scores.valid_protein("JACJ", 3, 6)
    assert not sequence_scores.valid_protein("ACDEFGH", 3, 6)


def test_nearest_distance_against_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (37, 6)), rng.integers(0, 4, (23, 6))
    want = [min((x != y).sum() for y in b) for x in a]
    assert protein_ascent.nearest_distance(a, b).tolist() == want


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.kind", "video", "data.kind is 'video', allowed: one of images, text, proteins"),
        ("model.decoder", "gru", "one of gpt2, non_autoregressive"),
        ("model.word_dropout", 1.0, "model.word_dropout is 1.0"),
        ("data.max_tokens", 1, "data.max_tokens is 1"),
        ("judge.steps", 0, "judge.steps is 0"),
        ("ascent.rate", 0.0, "ascent.rate is 0"),
        ("systems", ("ddpm",), "some of eddpm, two_stage, vae, lm"),
    ],
)
def test_bad_fields(field, value, message):
    config = grammar.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        study.validate(config)


def test_batches_that_do_not_divide_over_the_mesh_are_named_before_a_workdir_is_made(tmp_path):
    for field in ("train.batch_size", "ascent.batch_size"):
        with pytest.raises(ConfigError, match=rf"{field} is 12, allowed: a multiple of 8 \("):
            study.train(tiny(peptides, **{field: 12}), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_the_batch_of_the_ascent_binds_proteins_alone():
    assert fields.batch_fields(grammar.get_config()) == ("train.batch_size",)
    assert fields.batch_fields(peptides.get_config()) == ("train.batch_size", "ascent.batch_size")


def test_missing_files_are_named_before_a_workdir_is_made(tmp_path):
    config = tiny(yelp, **{"data.path": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"nowhere/sentiment\.test\.0"):
        study.train(config, tmp_path / "w")
    assert not pathlib.Path(tmp_path / "w").exists()


def test_substitutions_change_that_many_letters():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 6, (40, 9))
    ids[:, 7:] = 0
    changed = protein_ascent.substitute(ids, 0, 2, rng)
    assert ((changed != ids).sum(1) == 2).all()
    assert (changed[:, 7:] == 0).all()
    assert (changed[:, :7] > 0).all()


@pytest.mark.parametrize("decoder", ["gpt2", "non_autoregressive"])
def test_eisl_takes_the_place_of_cross_entropy_by_one_field(decoder):
    """With share 1 and the whole target as n-gram a non-autoregressive decoder has cross-entropy again.

    An autoregressive one reads its own output then, not the target.
    """
    shape = TokenShape(12, 12, 6, 2, 3, 1, 0)
    ids = jnp.asarray([[4, 5, 6, 7, 3, 0], [8, 9, 3, 0, 0, 0]])
    x, z = {"source": ids, "target": ids}, jax.random.normal(jax.random.key(0), (2, 8))

    def logp(**changes):
        config = tiny(grammar, **{"model.decoder": decoder, "model.word_dropout": 0.0, **changes})
        model = text_model.build_autoencoder(config, shape, nnx.Rngs(0), predict_variance=False)
        return model.decode_logprob(x, z, jax.random.key(1))

    plain = logp()
    whole = logp(**{"model.eisl": 1.0, "model.eisl_ngrams": (0,)})
    assert np.allclose(plain, whole, atol=1e-4) == (decoder == "non_autoregressive")
    half = logp(**{"model.eisl": 0.5, "model.eisl_ngrams": (0,)})
    assert np.allclose(half, (plain + whole) / 2, atol=1e-4)
    bigrams = logp(**{"model.eisl": 1.0, "model.eisl_ngrams": (2,)})
    assert np.isfinite(bigrams).all()
    assert np.abs(plain - bigrams).max() > 1e-2
