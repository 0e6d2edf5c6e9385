"""The systems that are compared: the method, its ablations and options, and two baselines."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class System:
    """What a system is, where it is not the full model.

    Attributes:
      title: in reports.
      objective: "pair" (content and style), "mast" or "advst".
      coverage: the coverage term is part of the loss.
      state: the copy head has a coverage state.
      gated: words and copies are mixed by a gate in place of one softmax.
      generated: values may be generated too, not only copied.
      copies: values may be copied.
      ordered: tuples have positions, which in data that keep a sentence's order leak it.
      style_weight: lambda after the schedule; None for that of the config.
      back: the written sentence has to lead back to the reference (Feng et al., 2020).
      marked: the reference is read with marks of types in place of its values.
    """

    title: str
    objective: str = "pair"
    coverage: bool = True
    state: bool = True
    gated: bool = False
    generated: bool = False
    copies: bool = True
    ordered: bool = False
    style_weight: float | None = None
    back: bool = False
    marked: bool = False


SYSTEMS = {
    "full": System("full model"),
    "no_coverage": System("no coverage term", coverage=False),
    "no_state": System("no coverage state", state=False),
    "gate": System("gate for one softmax", gated=True),
    "generated": System("values generated too", generated=True),
    "ordered": System("order of tuples leaked", ordered=True),
    "lambda_20": System("λ = 0.2", style_weight=0.2),
    "lambda_50": System("λ = 0.5", style_weight=0.5),
    "lambda_80": System("λ = 0.8", style_weight=0.8),
    "lambda_95": System("λ = 0.95", style_weight=0.95),
    "back": System("+ back-translation", back=True),
    "marked": System("+ marks for values of the reference", marked=True),
    # Subramanian et al. (2018) and Logeswaran et al. (2018), as the paper carries them over.
    "mast": System("MAST", "mast", coverage=False, state=False, generated=True, copies=False),
    "advst": System("AdvST", "advst", coverage=False, state=False, generated=True, copies=False),
}
