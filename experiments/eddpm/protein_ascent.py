"""Proteins of higher predicted value: ascent in latent space, selection, and baselines for both.

A regressor is trained on noisy latents of the train split. From good train sequences the latents climb
its gradient; what they decode to along the way, as far as no train sequence is the same, is encoded
again and ranked by the same regressor, and the best share is kept. The ranking matters as much as the
climb, so what it gives without any climb stands beside it: train sequences as they are, random
substitutions in them, and samples of the model. Values are judged by another regressor on letters,
which neither steers nor ranks (`evaluators.protein_regressor`).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.eddpm.systems import LatentDiffusion, generate
from jaxgen.config import Config
from jaxgen.data.tokens import TextSplit
from jaxgen.evaluators.common import batched_apply, decode, encode
from jaxgen.evaluators.protein_regressor import ProteinRegressor
from jaxgen.metrics import floors
from jaxgen.nn import mlp
from jaxgen.train import tables
from jaxgen.train.runs import Runs, TrainTask
from jaxgen.train.state import run_key


def fit_regressor(a: Config, runs: Runs, z: np.ndarray, values: np.ndarray, seed: int) -> mlp.MLP:
    """latent -> standardised value; the noise keeps its gradient of use off the encoded points."""

    def loss(model, extra, batch, key, step):
        noisy = batch["z"] + a.noise * jax.random.normal(key, batch["z"].shape)
        value = ((model(noisy)[:, 0] - batch["value"]) ** 2).mean()
        return value, ({}, extra)

    task = TrainTask(
        "ascent_regressor",
        lambda key: mlp.MLP(z.shape[1], 1, width=a.width, depth=a.depth, rngs=nnx.Rngs(key)),
        loss,
    )
    return runs.fit(
        task,
        seed,
        {"z": z, "value": values.astype(np.float32)},
        steps=a.train_steps,
        learning_rate=a.learning_rate,
        batch_size=a.batch_size,
        judging=True,
    )


def climb(a: Config, model: mlp.MLP, z: np.ndarray) -> dict[str, np.ndarray]:
    """{method: latents [stages, N, D] along the way}; a row that the solver gave up is NaN."""
    from jaxgen.latent_ode import ascent

    @jax.jit
    def by_steps(model: mlp.MLP, z: Any) -> Any:
        score = functools.partial(_score, model)
        return ascent.gradient_ascent(score, z, steps=a.steps, rate=a.rate, penalty=a.penalty)

    @jax.jit
    def by_ode(model: mlp.MLP, z: Any) -> Any:
        score = functools.partial(_score, model)
        return ascent.ascent_ode(score, z, time=a.steps * a.rate, penalty=a.penalty)[0]

    out = {}
    for name, move in (("gradient ascent", by_steps), ("ascent by ODE", by_ode)):
        path = []
        at = jnp.asarray(z)
        for _ in range(a.stages):
            at = move(model, at)
            path.append(np.asarray(at))
        out[name] = np.stack(path)
    return out


def _score(model: mlp.MLP, z: Any) -> Any:
    return model(z)[0]


@jax.jit
def _value(model: mlp.MLP, z: Any) -> Any:
    return model(z)[:, 0]


def substitute(ids: np.ndarray, pad: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows with `count` real letters replaced by random others."""
    out = ids.copy()
    letters = np.setdiff1d(np.unique(ids), [pad])
    for row in out:
        places = rng.choice(np.flatnonzero(row != pad), count, replace=False)
        for place in places:
            row[place] = rng.choice(letters[letters != row[place]])
    return out


def ascend(
    a: Config,
    runs: Runs,
    judge: ProteinRegressor,
    system: LatentDiffusion,
    data: Mapping[str, TextSplit],
    seed: int,
) -> tuple[str, dict[str, float]]:
    """A table of what each way of proposing sequences gives, and numbers for the row of results.

    Args:
      a: `config.ascent`.
    """
    train, test = data["train"], data["test"]
    train_value, test_value = np.asarray(train.value), np.asarray(test.value)
    z = batched_apply(encode, system, train.x)
    model = fit_regressor(a, runs, z, train_value, seed)

    def ranked(ids: np.ndarray) -> np.ndarray:
        latents = batched_apply(encode, system, {"source": ids, "target": ids})
        return batched_apply(_value, model, latents)

    guess = batched_apply(_value, model, batched_apply(encode, system, test.x))
    r2 = 1.0 - float(((guess - test_value) ** 2).mean() / test_value.var())
    ids = train.x["target"]
    known = {row.tobytes() for row in ids}
    rng = np.random.default_rng(seed)
    best = np.flatnonzero(train_value >= np.quantile(train_value, 0.9))
    start = rng.choice(best, min(a.count, len(best)), replace=False)

    def novel(rows: np.ndarray) -> np.ndarray:
        """Unique rows that are no train sequences."""
        rows = np.unique(rows, axis=0)
        return rows[[row.tobytes() not in known for row in rows]]

    proposals = {
        "samples of the model": generate(system, run_key(f"ascent-{seed}"), a.stages * len(start)),
        "substitutions": np.concatenate(
            [substitute(ids[start], train.vocabulary.end, 1 + i % 3, rng) for i in range(a.stages)]
        ),
    }
    for name, path in climb(a, model, z[start]).items():
        flat = path.reshape(-1, path.shape[-1])
        proposals[name] = batched_apply(decode, system, flat[np.isfinite(flat).all(1)])
    keep = max(1, round(a.keep * len(start)))
    best_value = judge.predict(ids[best])
    first = ids[start][np.argsort(-ranked(ids[start]))[:keep]]
    measured = train_value[best].mean()
    # Padding is a letter here, as for the judge.
    same = floors.consensus(ids, np.ones_like(ids, bool))[None]
    lines = [
        _line("constant consensus", same, judge.predict(same), ids, 1),
        _line("best decile of train", ids[best], best_value, ids, len(best), measured),
        _line("its best by the regressor", first, judge.predict(first), ids, len(start)),
    ]
    numbers = {"ascent_regressor_r2": r2, "best_decile": float(best_value.mean())}
    for name, made in proposals.items():
        rows = novel(made.astype(ids.dtype))
        top = rows[np.argsort(-ranked(rows))[:keep]]
        value = judge.predict(top)
        lines.append(_line(name, top, value, ids, len(rows)))
        numbers[f"{name.replace(' ', '_')}_value"] = float(value.mean())
    header = [
        "proposals",
        "candidates",
        "kept",
        "judged value",
        "distance to train",
        "measured value",
    ]
    about = (
        f"R² of the steering regressor on test: {r2:.3f}. Candidates of the last three are those along "
        f"{a.stages} stages (or rounds) from {len(start):,} sequences of the best decile, without those "
        f"that are train sequences; the {keep} that the steering regressor ranks first are kept. "
        "Distance: letters that differ from the nearest train sequence. Constant consensus: the most frequent "
        "letter of each position in the train split.\n\n"
    )
    return about + tables.markdown_table(header, lines), numbers


def _line(
    name: str,
    rows: np.ndarray,
    value: np.ndarray,
    train: np.ndarray,
    candidates: int,
    measured: float = 0.0,
) -> list[str]:
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), 200)).round().astype(int)]
    distance = nearest_distance(some, train)
    return [
        name,
        f"{candidates:,}",
        f"{len(rows):,}",
        f"{value.mean():.3f} ± {value.std():.3f}",
        f"{distance.mean():.2f}",
        f"{measured:.3f}" if measured else "–",
    ]


def nearest_distance(a: np.ndarray, b: np.ndarray, *, block: int = 16) -> np.ndarray:
    """Hamming distance of each row of a [N, T] to its nearest row of b [M, T]."""
    parts: Sequence[np.ndarray] = [
        (a[i : i + block, None] != b[None]).sum(-1).min(1) for i in range(0, len(a), block)
    ]
    return np.concatenate(parts)
