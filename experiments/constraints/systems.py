"""The systems that are compared: what stands in for the constraint, and how it learns."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class System:
    """What is added to the model's own loss.

    Attributes:
      title: in reports.
      reward: "none", "structured" (the pre-trained f) or "critic" (a free network).
      phi: how the reward learns. "fixed"; "learned", towards q of the data; "m_step", with the model;
        "binary", to tell data from samples.
      anchor: f also keeps to the examples that its knowledge came from.
      proposal: samples come from an average of past models, and q is that of the base (DPG).
      best: no training: the best of K samples of the base.
    """

    title: str
    reward: str = "none"
    phi: str = "fixed"
    anchor: bool = False
    proposal: bool = False
    best: bool = False


SYSTEMS = {
    "base": System("base"),
    "best_of_k": System("base, best of K", best=True),
    "fixed": System("fixed constraint", "structured"),
    "binary_d": System("binary discriminator", "critic", "binary"),
    "m_step": System("constraint in the M-step", "structured", "m_step"),
    "learned": System("learned constraint", "structured", "learned"),
    "anchored": System("learned, anchored", "structured", "learned", anchor=True),
    "dpg": System("fixed constraint, DPG", "structured", proposal=True),
}
