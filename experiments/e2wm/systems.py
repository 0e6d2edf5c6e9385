"""The systems that are compared: what is trained, and what holds it back."""

import dataclasses

from jaxgen.config import Config


@dataclasses.dataclass(frozen=True)
class System:
    """One way to learn from experience.

    Attributes:
      title: in reports.
      trains: "nothing", "all" parameters, or "lora": low-rank updates.
      penalty: "ewc" (Fisher information; of the kernels under LoRA), "l2_sp" (the same with F = 1), or
        "separate" (Fisher information of the factors a and b, each for itself).
      strength: of the penalty, lambda.
      general: what general text does. "replay": a share of it joins every batch; "kl": the model stays near the
        base model on it; "only": it takes the place of the experience.
    """

    title: str
    trains: str = "lora"
    penalty: str = ""
    strength: float = 0.0
    general: str = ""


NAMES = (
    *("base", "full", "lora", "ewc_full", "ewc_lora", "l2_sp"),
    *("replay", "kl", "separate", "general"),
)


def systems_of(config: Config) -> dict[str, System]:
    """{name of its runs: system}; EWC-LoRA has one for each lambda."""
    e = config.ewc
    every = {
        "base": {"base": System("base model", "nothing")},
        "full": {"full": System("full fine-tuning", "all")},
        "lora": {"lora": System("LoRA")},
        "ewc_full": {
            "ewc_full": System(f"EWC, full, λ {e.full_strength:g}", "all", "ewc", e.full_strength)
        },
        "ewc_lora": {
            f"ewc_lora_{s:g}": System(f"EWC-LoRA, λ {s:g}", penalty="ewc", strength=s)
            for s in e.strengths
        },
        "l2_sp": {
            "l2_sp": System(f"L2-SP, full, λ {e.l2_strength:g}", "all", "l2_sp", e.l2_strength)
        },
        "replay": {"replay": System("LoRA + replay", general="replay")},
        "kl": {"kl": System("LoRA + KL to base", general="kl")},
        "separate": {
            "separate": System(
                f"EWC of A, B apart, λ {e.separate_strength:g}",
                penalty="separate",
                strength=e.separate_strength,
            )
        },
        "general": {"general": System("general text alone", "all", general="only")},
    }
    return {name: s for system in config.systems for name, s in every[system].items()}
