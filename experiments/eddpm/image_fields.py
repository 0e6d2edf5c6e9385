"""Fields of a config of the study on images, and what they have to be together."""

from experiments.common import fields
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data import images
from jaxgen.errors import ConfigError

SOURCES = (*images.SOURCES, "idx")
SIDES = {"digits": 8, "idx": 28}  # of sources whose images have one size, and one channel
ImageShape = tuple[int, int, int]
SYSTEMS = ("eddpm", "two_stage", "vae", "ddpm")

NAMES = {
    **fields.NAMES,
    "": "seed seeds systems",
    **fields.LATENT_NAMES,
    "data": "kind source name path size channels valid_fraction test_fraction limit",
    "model": "latent_dim latent_norm width blocks denoiser_width denoiser_depth decoder decoder_std "
    "dtype",
    "vae": "betas anneal_steps free_bits",
    "two_stage": "beta",
    "ddpm": "multipliers",
    "classifier": "width features steps learning_rate noise label_smoothing probe_rows test_rows",
}


def check(config: Config) -> None:
    """Raises ConfigError for fields that cannot be, or not together."""
    c = config_lib
    rules = {
        "data.kind": c.one_of("images"),
        "data.source": c.one_of(*SOURCES),
        "systems": c.some_of(*SYSTEMS),
        "model.decoder": c.one_of("gaussian", "bernoulli", "diffusion"),
    }
    c.check_fields(config, NAMES, rules)
    d, m = config.data, config.model
    fields.check_fractions(config)
    if d.source in SIDES:
        side = SIDES[d.source]
        allowed = {"data.size": c.one_of(0, side), "data.channels": c.one_of(0, 1)}
        words = {k: (rule, f"{text}, of {d.source}") for k, (rule, text) in allowed.items()}
        c.check(config, words)
    else:
        c.check(config, {"data.size": c.integer(1, 4096)})
    if d.source in ("hf", "tfds") and not d.name:
        raise ConfigError("data.name", d.name, f"the name of a data set, for source {d.source}")
    if m.decoder == "diffusion" and m.width % 2:
        raise ConfigError("model.width", m.width, "an even number, for the diffusion decoder")
    halved, size = len(config.ddpm.multipliers) - 1, shape_in(config)[0]
    if "ddpm" in config.systems and size % 2**halved:
        raise ConfigError(
            "ddpm.multipliers",
            config.ddpm.multipliers,
            f"as many as a side of {size} can be halved evenly, and one",
        )


def shape_in(config: Config) -> ImageShape:
    """Of one image, from the config alone."""
    d = config.data
    size = SIDES.get(d.source, d.size)
    return (size, size, d.channels or (1 if d.source in SIDES else 3))
