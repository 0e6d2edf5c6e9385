"""What fields of a config have to be together, for `validate` of all studies; touches no device."""

import re
import socket

from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.errors import ConfigError

# Fields that every study reads; see `jaxgen.config.check_fields`.
NAMES = {
    "": "seed seeds",
    "train": "steps batch_size optimizer learning_rate schedule warmup final clip weight_decay "
    "ema_decay accumulate log_every save_every keep restart profile_at profile_steps",
    "mesh": "data fsdp expert model slices host_devices processes process_id coordinator topology",
}
# Of a chain of latents, EDDPM's loss on it, and samples from it.
LATENT_NAMES = {
    "schedule": "kind num_steps beta_min beta_max",
    "eddpm": "weighting alignment sigma_0 diffusion_weight num_t mse_weight encoder_warmup adaptive_t "
    "decoder_noise",
    "sample": "sampler steps eta count",
}
# Fields that may change between launches on one workdir: they do not touch what is being trained.
RUNTIME = (
    "mesh.",
    "seeds",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "train.restart",
    "train.profile",
)


def check_run(config: Config) -> None:
    """Seeds, batch and mesh, as every study has them."""
    last = config_lib.SEED[0](config.seed + config.seeds - 1)
    if not last:
        raise ConfigError(
            "seeds", config.seeds, f"fewer seeds from {config.seed} on: the last is too large"
        )
    for field in batch_fields(config):
        size = config_lib.get(config, field)
        if size % config.train.accumulate:
            raise ConfigError("train.accumulate", config.train.accumulate, f"a divisor of {size}")
    check_mesh(config.mesh)


def batch_fields(config: Config) -> tuple[str, ...]:
    """The sizes of batches that a launch trains on: the study's own, and the ascent's of proteins."""
    proteins = "ascent" in config and config.data.kind == "proteins"
    return ("train.batch_size", *(("ascent.batch_size",) if proteins else ()))


def check_mesh(mesh: Config) -> None:
    """Processes that can find each other, and at most one axis that takes what is left."""
    axes = {a: mesh[a] for a in ("data", "fsdp", "expert", "model")}
    if list(axes.values()).count(-1) > 1:
        raise ConfigError("mesh", axes, "-1 for one axis at most")
    if mesh.process_id >= max(mesh.processes, 1):
        raise ConfigError(
            "mesh.process_id", mesh.process_id, f"-1 or below mesh.processes, {mesh.processes}"
        )
    if not mesh.coordinator:
        return
    match = re.fullmatch(r"([\w.\-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", mesh.coordinator)
    if not match or not 0 < int(match.group(2)) < 2**16:
        raise ConfigError("mesh.coordinator", mesh.coordinator, "host:port of process 0")
    try:
        socket.getaddrinfo(match.group(1).strip("[]"), int(match.group(2)))
    except (OSError, UnicodeError) as e:
        # Jax would try for minutes, and then abort.
        raise ConfigError(
            "mesh.coordinator", mesh.coordinator, f"host:port of a host with an address ({e})"
        ) from e


def check_schedule(config: Config) -> None:
    """The noise must be a share of the variance in every step, and must not fall."""
    c = config.schedule
    if c.kind != "vp_sde":
        share = (lambda v: 0 < v < 1, "above 0 and below 1 (a share of the variance)")
        config_lib.check(config, {"schedule.beta_min": share, "schedule.beta_max": share})
    if c.kind in ("linear", "vp_sde") and c.beta_min > c.beta_max:
        raise ConfigError("schedule.beta_min", c.beta_min, f"at most beta_max, {c.beta_max}")


def check_divides(config: Config, part: str, whole: str) -> None:
    """One field must divide another: heads the width, blocks with experts the depth."""
    size = config_lib.get(config, whole)
    if size % config_lib.get(config, part):
        raise ConfigError(part, config_lib.get(config, part), f"a divisor of {size}, {whole}")


def check_ngrams(config: Config, field: str, longest: int) -> None:
    """No n-gram may be longer than the texts are at most."""
    if max(config_lib.get(config, field)) > longest:
        raise ConfigError(
            field,
            config_lib.get(config, field),
            f"n-grams of at most {longest} tokens, as the texts",
        )


def check_fractions(config: Config, *, test: bool = True) -> None:
    """Shares of the data that leave something to train on, and (if asked) to test on."""
    d = config.data
    if d.valid_fraction + d.test_fraction >= 1 or (test and not d.test_fraction):
        allowed = "a sum below 1" + ", and test above 0" * test
        raise ConfigError(
            "data.valid_fraction, data.test_fraction", (d.valid_fraction, d.test_fraction), allowed
        )
