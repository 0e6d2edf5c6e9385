"""Unsupervised style transfer: EISL or cross-entropy as what keeps the content.

    python -m experiments.style_transfer --config=configs/style_transfer/grammar.py --workdir=runs/transfer

There are sentences of two styles and no pairs. An encoder-decoder G(x, s), told the style s by a first
source token and, in the other style, reading its own output, is trained by three terms (after Hu et al.,
2017, and Liu et al., 2022, section 4.2):

    CE(G(x, s), x)                                sentences of their own style are repeated
    + style_weight CE(classifier(G(x, s')), s')   what is written in the other style has it
    + content_weight L(G(x, s'), x)               and keeps the content; L is EISL or cross-entropy

Cross-entropy punishes every word that changes at its place, EISL only n-grams that occur nowhere. The
classifier is trained first, on true sentences with words hidden, so that no one word decides; of G it reads
draws of single tokens with a relaxed gradient (Jang et al., 2017), since mixtures of tokens deceive it. Judges
are others, trained on other sentences.
"""

from experiments.style_transfer import study
from jaxgen import launch

launch.run(study.MODES, study.validate, runtime=study.RUNTIME)
