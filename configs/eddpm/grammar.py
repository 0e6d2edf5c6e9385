"""EDDPM and its baselines on the offline grammar corpus: text, minutes on two cores."""

from configs.eddpm import digits
from jaxgen.config import Config


def get_config() -> Config:
    config = digits.get_config()
    del config.ddpm, config.classifier
    config.systems = ("eddpm", "two_stage", "vae", "lm")

    config.data = Config()
    config.data.kind = "text"
    config.data.source = "grammar"  # files, table, hf, tfds, grammar, english
    config.data.path = ""
    config.data.name = ""
    config.data.train = ()  # file names under path
    config.data.test = ()
    config.data.text_field = "text"  # of tables; for proteins: the sequence column
    config.data.label_field = ""  # for proteins: the value column
    config.data.valid_fraction = 0.05
    config.data.test_fraction = 0.1
    config.data.limit = 12_000
    config.data.max_words = 0  # leaves longer sentences out
    config.data.seed = 0  # of the generated corpus
    config.data.max_tokens = 24
    config.data.tokenizer = "word"  # bpe, wordpiece, word: trained; or a folder
    config.data.vocab_size = 200
    config.data.source_vocab_size = 0  # of --mode=compile: the encoder's, where it differs
    config.data.alphabet = ""  # of proteins; "" allows IUPAC's letters and gaps

    config.model = Config()
    config.model.latent_dim = 32
    config.model.latent_norm = "running"  # none, running: standardised latents
    config.model.encoder = "bert"  # or module:Class, an encoder of your own
    config.model.encoder_width = 128
    config.model.encoder_depth = 2
    config.model.encoder_heads = 4
    config.model.encoder_path = ""  # a Hugging Face folder with BERT weights and tokenizer
    config.model.pre_norm = True  # False: BERT's own order, of use with pretrained weights
    config.model.decoder = "gpt2"  # gpt2 (autoregressive), non_autoregressive
    config.model.decoder_width = 128
    config.model.decoder_depth = 2
    config.model.decoder_heads = 4
    config.model.decoder_path = ""  # a folder with GPT-2 or GPT-Neo weights and tokenizer
    config.model.word_dropout = 0.3  # share of the decoder's input tokens that are hidden
    config.model.pad_weight = 1.0  # of padding's cross-entropy in the non-autoregressive decoder
    config.model.eisl = 0.0  # share of the decoder's loss that is EISL instead of cross-entropy
    config.model.eisl_ngrams = (1, 2, 3)
    config.model.regressor_weight = 0.0  # of the joint regressor of values (proteins)
    config.model.denoiser_width = 320
    config.model.denoiser_depth = 4
    config.model.dropout = 0.0
    config.model.dtype = "float32"  # float32, bfloat16: of the computation
    config.model.remat = False
    config.model.scan = False

    config.eddpm.sigma_0 = 0.1
    config.eddpm.diffusion_weight = 1.0
    config.vae.betas = (1.0, 0.1)
    config.vae.free_bits = 0.1
    config.vae.anneal_steps = 500

    config.train.steps = 1500
    config.train.batch_size = 64
    config.train.learning_rate = 1e-3

    config.judge = Config()  # language models that judge samples
    config.judge.width = 96
    config.judge.depth = 2
    config.judge.heads = 4
    config.judge.steps = 800
    config.judge.reverse_steps = 400
    config.judge.learning_rate = 2e-3
    config.judge.test_rows = 1000
    config.judge.probe_rows = 10_000

    config.ascent = Config()  # raising a predicted value (proteins)
    config.ascent.count = 2048  # sequences of the best decile, from which latents climb
    config.ascent.stages = 5  # along which sequences are decoded
    config.ascent.steps = (
        2  # of each stage: as far as sequences stay about as near as substitutions
    )
    config.ascent.rate = 0.1
    config.ascent.penalty = 0.1
    config.ascent.keep = 0.1  # as many as this share of the starts, the best by the regressor
    config.ascent.noise = 0.2  # on the latents that the regressor is trained on
    config.ascent.width = 256
    config.ascent.depth = 3
    config.ascent.train_steps = 3000
    config.ascent.batch_size = 512
    config.ascent.learning_rate = 2e-3

    config.sample.count = 2000
    return config
