"""What is trained: whole models, built from plain arguments."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.models import (
        attribute_heads,
        bert,
        data_to_text,
        gguf,
        gpt2,
        gpt_neo,
        gptj,
        hf,
        image_autoencoder,
        latent,
        llama,
        opt,
        pose_transfer,
        t5,
        text_autoencoder,
        text_decoders,
        translation_losses,
        translator,
        vit,
    )
    from jaxgen.models.attribute_heads import AttributeHeads, Operators
    from jaxgen.models.data_to_text import DataToText
    from jaxgen.models.image_autoencoder import ImageAutoencoder
    from jaxgen.models.latent import LatentModel, Standardised, TwoStage, sample, sample_latents
    from jaxgen.models.pose_transfer import PoseDiffusion, PoseGenerator
    from jaxgen.models.text_autoencoder import SequenceEncoder, TextAutoencoder
    from jaxgen.models.text_decoders import LatentGPT, NonAutoregressiveDecoder
    from jaxgen.models.translator import NonAutoregressiveT5, Translator

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
