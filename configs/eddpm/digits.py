"""EDDPM and its baselines on scikit-learn's digits (1,797 real images): minutes on two cores."""

from jaxgen.config import Config


def get_config() -> Config:
    config = Config()
    config.seed = 0  # of the first run; run i uses seed + i
    config.seeds = 1
    config.systems = ("eddpm", "two_stage", "vae", "ddpm")

    config.data = Config()
    config.data.kind = "images"
    config.data.source = "digits"  # digits, folder, tfds, hf
    config.data.name = ""
    config.data.path = ""
    config.data.size = 8
    config.data.channels = 1
    config.data.valid_fraction = 0.1
    config.data.test_fraction = 0.2
    config.data.limit = 0

    config.model = Config()
    config.model.latent_dim = 32
    config.model.latent_norm = "running"  # none, running: standardised latents
    config.model.width = 16
    config.model.blocks = 1
    config.model.denoiser_width = 320
    config.model.denoiser_depth = 4
    config.model.decoder = "gaussian"  # gaussian, bernoulli, diffusion
    config.model.decoder_std = 0.05
    config.model.dtype = "float32"  # float32, bfloat16: of the computation

    config.schedule = Config()
    config.schedule.kind = "linear"  # linear, cosine, constant, vp_sde
    config.schedule.num_steps = 1000
    config.schedule.beta_min = 1e-4
    config.schedule.beta_max = 0.02

    config.eddpm = Config()
    config.eddpm.weighting = "simple"  # simple, elbo
    config.eddpm.alignment = "kl"  # kl (the paper), joint (the exact bound)
    config.eddpm.sigma_0 = 0.03  # 0: sqrt(beta_1)
    config.eddpm.diffusion_weight = 0.1
    config.eddpm.num_t = 8  # draws of t for each image; of the two-stage model too
    # The four options of Meshchaninov et al. (2026); all off here.
    config.eddpm.mse_weight = 0.0
    config.eddpm.encoder_warmup = 0
    config.eddpm.adaptive_t = False
    config.eddpm.decoder_noise = 0.0

    config.vae = Config()
    config.vae.betas = (1.0, 0.1)
    config.vae.anneal_steps = 0  # beta rises linearly from 0 over this many steps
    config.vae.free_bits = 0.0  # nats of each dimension that cost nothing
    config.two_stage = Config()
    config.two_stage.beta = 1e-3  # of the autoencoder's KL term

    config.ddpm = Config()
    config.ddpm.multipliers = (1, 5)  # of the U-Net's width; the width follows from the parameters

    config.train = Config()
    config.train.steps = 1500
    config.train.batch_size = 64
    config.train.optimizer = "adamw"  # adamw, adafactor
    config.train.learning_rate = 3e-3
    config.train.schedule = "cosine"  # constant, cosine, rsqrt
    config.train.warmup = 100
    config.train.final = 0.02
    config.train.clip = 1.0
    config.train.weight_decay = 0.0
    config.train.ema_decay = 0.999
    config.train.accumulate = 1
    config.train.log_every = 50
    config.train.save_every = 500
    config.train.keep = 2
    config.train.restart = False  # True: a run whose checkpoints cannot be read begins anew
    config.train.profile_at = -1  # first step of a profiler trace
    config.train.profile_steps = 5

    config.classifier = Config()  # its features carry the Frechet distance
    config.classifier.width = 16
    config.classifier.features = 32
    config.classifier.steps = 400
    config.classifier.learning_rate = 1e-3
    config.classifier.noise = 0.1  # std, added to its training images
    config.classifier.label_smoothing = 0.1

    config.sample = Config()
    config.sample.sampler = "ddim"  # ddim, ancestral, ode
    config.sample.steps = 32
    config.sample.eta = 0.0
    config.sample.count = 1536

    config.mesh = Config()
    config.mesh.data = -1  # all devices that the other axes leave
    config.mesh.fsdp = 1
    config.mesh.expert = 1
    config.mesh.model = 1
    config.mesh.host_devices = 0  # force this many CPU devices
    config.mesh.processes = 1
    config.mesh.process_id = -1
    config.mesh.coordinator = ""  # host:port of process 0
    config.mesh.topology = ""  # of --mode=compile, such as v5p:4x4x4
    return config
