"""Unsupervised style transfer with language models as discriminators (Yang et al., 2018).

    python -m experiments.lm_discriminator --config=configs/lm_discriminator/decipher.py --workdir=runs/decipher

There are sentences of two styles and no pairs: plain and enciphered text (`task` decipher, with an exact truth), or
two sentiments. An encoder-decoder is first trained to repeat sentences of both styles; all systems go on from there,
for the same number of steps, under one loss with other weights:

    CE(G(x, s), x) + cycle CE(G(G(x, s'), s), x) + lm L_LM(G(x, s')) + classifier CE(...) + critic ...

where G(x, s') is a sequence of Gumbel-softmax draws, each of which the decoder reads next, and L_LM is what a language
model of style s' says of it at every token. What the systems are stands in `systems.py`. `--mode=eval` tests again
what is trained.
"""

from experiments.lm_discriminator import study
from jaxgen import launch

launch.run(study.MODES, study.validate, runtime=study.RUNTIME)
