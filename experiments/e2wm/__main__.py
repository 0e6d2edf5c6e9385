"""Language models that learn from a household world, and forget little of the rest (Xiang et al., 2023).

    python -m experiments.e2wm --config=configs/e2wm/default.py --workdir=runs/e2wm

Plans are searched for in a simulator, stories are told of random actions, and all of it becomes four text tasks. A
language model is fine-tuned on them under several ways to keep what it knew: an elastic penalty on the low-rank
update (EWC-LoRA), replay of general text, KL to the base model, and others. Beside task scores stands the rise of
the negative log-likelihood of general text; plans are carried out in the simulator.

`--mode=train` does everything in order, and goes on where it stopped; `collect`, `pretrain` and `finetune` end after
that part, `eval` tests again what is trained. `--mode=play` reads actions from the terminal, such as `walk fridge`
or `[Grab] <cup> (7)`, and says why one cannot be done. `--mode=compile` compiles LoRA with EWC for a TPU slice.
"""

from experiments.e2wm import study
from jaxgen import launch

launch.run(study.MODES, study.validate, runtime=study.RUNTIME, begins=study.BEGINS)
