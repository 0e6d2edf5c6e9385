"""What a trained model can do: general text, choices, paths, and plans that are carried out in the simulator."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray

from experiments.e2wm.collect import PLAN_SPLITS, Household
from experiments.e2wm.corpus import Corpus, check_length
from jaxgen.config import Config
from jaxgen.evaluators.common import batched_apply
from jaxgen.losses.cross_entropy import cross_entropy
from jaxgen.metrics import choice, rouge
from jaxgen.nn import prepack
from jaxgen.text import decoding, tokenizers
from jaxgen.world import forms, grounding

UNCONDITIONAL = "Answer:"  # the prompt that asks nothing, of the score "un"


@dataclasses.dataclass(frozen=True)
class Reader:
    """A model with its tokenizer, and how many rows it reads at once."""

    model: Any
    corpus: Corpus
    batch: int = 32

    @functools.cached_property
    def writer(self) -> Any:
        """The model as it decodes, made once for all that it writes."""
        return prepack.prepack(self.model)

    def logprobs(
        self, prompts: Sequence[str], continuations: Sequence[str]
    ) -> list[Float[ndarray, " _"]]:
        """log p of each token of ` continuation` after its prompt.

        Raises:
          ConfigError: the two have more tokens than the model has positions.
        """
        heads = self.corpus.ids(prompts)
        tails = self.corpus.ids([f" {c}" for c in continuations])
        texts = [h + t for h, t in zip(heads, tails, strict=True)]
        rows = _right_padded(texts, self.corpus, "prompt to evaluate on")
        each = batched_apply(_logprobs, self.model, rows, batch=self.batch)
        # Place i of `each` is the log-probability of token i + 1.
        places = [(len(h) - 1, len(t) - 1) for h, t in zip(heads, texts, strict=True)]
        return [row[a:b] for row, (a, b) in zip(each, places, strict=True)]

    def choose(self, rows: Sequence[forms.Row], norm: str) -> list[str]:
        """The option of each question that scores best; see `jaxgen.metrics.choice`."""
        prompts = [str(r["input"]) for r in rows for _ in _options(r)]
        options = [o for r in rows for o in _options(r)]
        found = self.logprobs(prompts, options)
        distinct = list(dict.fromkeys(options)) if norm == "un" else []
        free = dict(
            zip(
                distinct,
                self.logprobs([UNCONDITIONAL] * len(distinct), distinct) if distinct else [],
                strict=True,
            )
        )
        out, at = [], 0
        for r in rows:
            mine = _options(r)
            scores = choice.option_scores(
                found[at : at + len(mine)],
                norm=norm,
                unconditional=[free[o] for o in mine] if norm == "un" else None,
            )
            out.append(mine[choice.choose(scores)])
            at += len(mine)
        return out

    def write(self, prompts: Sequence[str], *, max_tokens: int, beams: int = 1) -> list[str]:
        """What the model answers: greedy (or by beam search), cut at the first line's end.

        Raises:
          ConfigError: prompt and answer have more tokens than the model has positions.
        """
        ids = self.corpus.ids(prompts)
        longest = max(map(len, ids))
        check_length("prompt to evaluate on", longest + max_tokens, self.corpus.positions)
        length = min(-(-longest // 16) * 16, self.corpus.positions - max_tokens)
        rows = {
            "tokens": np.full((len(ids), length), self.corpus.pad, np.int32),
            "mask": np.zeros((len(ids), length), bool),
        }
        for i, row in enumerate(ids):
            rows["tokens"][i, length - len(row) :] = row
            rows["mask"][i, length - len(row) :] = True
        run = functools.partial(
            _write, max_tokens=max_tokens, beams=beams, end=self.corpus.end, pad=self.corpus.pad
        )
        found = batched_apply(run, self.writer, rows, batch=self.batch)
        return [
            t.partition("\n")[0].strip() for t in tokenizers.decode(self.corpus.tokenizer, found)
        ]

    def general_nll(self, windows: Int[ndarray, "N T"]) -> float:
        """Nats of a token of running text."""
        return float(batched_apply(_logprobs, self.model, windows, batch=self.batch).mean() * -1)


def _options(row: forms.Row) -> list[str]:
    found = row["answer_list"]
    return [str(o) for o in found] if isinstance(found, list) else []


def _right_padded(texts: list[list[int]], corpus: Corpus, field: str) -> Int[ndarray, "N T"]:
    longest = max(map(len, texts))
    check_length(field, longest, corpus.positions)
    rows = np.full(
        (len(texts), min(-(-longest // 32) * 32, corpus.positions)), corpus.pad, np.int32
    )
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows


@jax.jit
def _logprobs(model: Any, tokens: Int[Array, "B T"]) -> Float[Array, "B T-1"]:
    logits, _ = model(tokens[:, :-1])
    return -cross_entropy(logits, tokens[:, 1:])


@functools.partial(jax.jit, static_argnames=("max_tokens", "beams", "end", "pad"))
def _write(
    model: Any, rows: dict[str, Array], *, max_tokens: int, beams: int, end: int, pad: int
) -> Int[Array, "B T"]:
    start = model.start(rows["tokens"], max_tokens=max_tokens, mask=rows["mask"])
    options = {"max_tokens": max_tokens, "eos": end, "pad": pad}
    if beams > 1:
        return decoding.beam(start, beams=beams, **options).tokens
    return decoding.greedy(start, **options).tokens


def evaluate(config: Config, reader: Reader) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Numbers of one model on our own tests, and the plans that it wrote, by split."""
    e, tests = config.evaluate, reader.corpus.experience.tests
    row: dict[str, float] = {"nll": reader.general_nll(reader.corpus.general["test"])}
    plans: dict[str, list[str]] = {}
    for split in PLAN_SPLITS:
        asked = tests["plan", split]
        written = reader.write(
            [str(r["input"]) for r in asked], max_tokens=e.plan_tokens, beams=e.beams
        )
        found = rouge.rouge(written, [str(r["ref"]) for r in asked])
        row |= {f"plan_{split}_{k}": v for k, v in found.items()}
        done = carried_out(written, reader.corpus.experience.households[split])
        row |= {f"plan_{split}_{k}": v for k, v in done.items()}
        plans[split] = written
    for task, split in (("recognise", "seen"), ("recognise", "unseen"), ("count", "all")):
        asked = tests[task, split]
        chosen = reader.choose(asked, "ln")
        row[f"{task}_{split}"] = choice.accuracy(chosen, [str(r["answer"]) for r in asked])
    row |= path_scores(reader, tests["path", "all"], e.path_tokens)
    row["score"] = mean_score(row)
    return row, plans


def mean_score(row: dict[str, float]) -> float:
    """The mean of the four tasks: plans that meet their goals, recognition, counting, path overlap."""
    plan = np.mean([row[f"plan_{split}_goals_met"] for split in PLAN_SPLITS])
    recognise = (row["recognise_seen"] + row["recognise_unseen"]) / 2
    return float(np.mean([plan, recognise, row["count_all"], row["path_overlap"]]))


def carried_out(plans: Sequence[str], households: Sequence[Household]) -> dict[str, float]:
    """Shares of plans that can be carried out to their end, and that meet all goals; the mean share of goals."""
    executable, met, goals = [], [], []
    for text, h in zip(plans, households, strict=True):
        done = grounding.execute(grounding.plan_steps(text), h.graph, h.world, h.goal)
        real = (np.asarray(h.goal.state) >= 0) | (np.asarray(h.goal.relation) >= 0)
        executable.append(done.executable and len(done.script) > 0)
        met.append(bool(done.met.all()))
        goals.append(float(done.met[real].mean()))
    return {
        "executable": float(np.mean(executable)),
        "goals_met": float(np.mean(met)),
        "goals": float(np.mean(goals)),
    }


def path_scores(reader: Reader, asked: Sequence[forms.Row], max_tokens: int) -> dict[str, float]:
    """Overlap of the longest common run of rooms, and exact matches."""
    written = reader.write([str(r["input"]) for r in asked], max_tokens=max_tokens)
    pairs = [
        (w.split(", "), str(r["ref"]).split(", ")) for w, r in zip(written, asked, strict=True)
    ]
    return {
        "path_overlap": float(np.mean([rouge.run_overlap(*p) for p in pairs])),
        "path_exact": float(np.mean([a == b for a, b in pairs])),
    }


def to_device(model: Any) -> Any:
    """The model with its arrays on the device, once for all batches."""
    return jax.tree.map(jnp.asarray, model)
