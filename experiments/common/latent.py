"""The chain of latents and its sampler, from a config."""

from typing import Any

from jaxgen.config import Config
from jaxgen.diffusion import schedule
from jaxgen.errors import ConfigError


def chain_of(config: Config) -> schedule.Schedule:
    """The latent chain of `config.schedule`; `constant` takes `beta_max`."""
    c = config.schedule
    kwargs = {
        "linear": {"beta_min": c.beta_min, "beta_max": c.beta_max},
        "vp_sde": {"beta_min": c.beta_min, "beta_max": c.beta_max},
        "constant": {"beta": c.beta_max},
        "cosine": {},
    }
    try:
        return schedule.make(c.kind, c.num_steps, **kwargs[c.kind])
    except ValueError as e:
        raise ConfigError("schedule", c.to_dict(), str(e)) from e


def sampler_of(config: Config) -> dict[str, Any]:
    """Options of `models.latent.sample_latents`."""
    s = config.sample
    return {"sampler": s.sampler, "steps": s.steps, "eta": s.eta}


def denoiser_of(config: Config) -> dict[str, Any]:
    """Options of the noise predictor, the one MLP that every system on latents has."""
    m = config.model
    return {
        "denoiser_width": m.denoiser_width,
        "denoiser_depth": m.denoiser_depth,
        # Brings any chain length to the 0..1000 that time embeddings are made for.
        "time_scale": 1000.0 / config.schedule.num_steps,
        "dtype": None if m.dtype == "float32" else m.dtype,
    }


def eddpm_options(config: Config) -> dict[str, Any]:
    """Options of `train.latent_tasks.eddpm_task`."""
    c = config.eddpm
    return {
        "latent_norm": config.model.latent_norm,
        "encoder_warmup": c.encoder_warmup,
        "adaptive_t": c.adaptive_t,
        "weighting": c.weighting,
        "alignment": c.alignment,
        "sigma_0": c.sigma_0 or None,
        "diffusion_weight": c.diffusion_weight,
        "num_t": c.num_t,
        "decoder_noise": c.decoder_noise,
    }
