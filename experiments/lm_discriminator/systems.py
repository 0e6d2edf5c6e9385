"""The systems that are compared: one loss with other weights."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class System:
    """Terms of the loss beside repeating and the way back.

    Attributes:
      title: in reports.
      lm: language models of both styles read what is written.
      learned_lm: they learn against the generator (gamma above 0) instead of staying as they were.
      classifier: a frozen classifier of real text reads it.
      critic: a convolutional discriminator reads it, and learns against the generator.
      entropy: the generator's negative entropy joins the language models' term, which becomes a KL.
      hard: what is written is read as one-hot draws, with the soft ones' gradient.
      parallel: what the readers are shown is drawn in one pass, each token given the greedy text before it
        (as EISL's authors do) instead of given the draws: no gradient from a token to those before it.
      back: what the way back reads. "soft": what was written, with its gradient; "sampled": near-greedy text
        without one (back-translation); "": there is no way back.
      content: a loss between what is written and its source, "ce" or "eisl", in place of the way back (Liu et
        al., 2022, section 4.2).
      noise: "hide" hides words from the encoder where it is to repeat, "corrupt" also drops and moves them.
    """

    title: str
    lm: bool = False
    learned_lm: bool = False
    classifier: bool = False
    critic: bool = False
    entropy: bool = False
    hard: bool = False
    parallel: bool = False
    back: str = "soft"
    content: str = ""
    noise: str = "hide"


SYSTEMS = {
    "autoencoder": System("autoencoder"),
    "classifier": System("classifier", classifier=True),
    "critic": System("adversarial CNN", critic=True),
    "lm": System("LM", lm=True),
    "lm_learned": System("LM, learning", lm=True, learned_lm=True),
    "lm_classifier": System("LM + classifier", lm=True, classifier=True),
    # He et al. (2020), and its baseline without a language model.
    "lm_kl": System("LM, KL + back-translation", lm=True, entropy=True, hard=True, back="sampled"),
    "unmt": System("denoising + back-translation", back="sampled", noise="corrupt"),
    # What keeps the content is no way back: cross-entropy at its place, or n-grams wherever they stand.
    "classifier_ce": System("classifier, CE", classifier=True, back="", content="ce"),
    "classifier_eisl": System("classifier, EISL", classifier=True, back="", content="eisl"),
    "parallel_ce": System(
        "classifier in parallel, CE",
        classifier=True,
        hard=True,
        parallel=True,
        back="",
        content="ce",
    ),
    "parallel_eisl": System(
        "classifier in parallel, EISL",
        classifier=True,
        hard=True,
        parallel=True,
        back="",
        content="eisl",
    ),
}
