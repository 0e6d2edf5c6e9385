"""DTS-Gate: a mixture of experts that starts dense and becomes sparse, beside gates that start sparse.

    python -m experiments.dts_gate --config=configs/moe/dts.py --workdir=runs/dts

Every method trains the same GPT on the same text for the same number of steps; steps, FLOPs and time to
the validation perplexity that Switch ends at are compared. DTS runs in segments, one a budget of experts,
each of which is one compilation: with budgets and thresholds that rise (`dts`, whose first steps train one
shared expert, `jaxgen.moe.init_experts`), or as its released code has it (`dts_reference`). Beside them Switch
with and without room for all, GShard, hash, a loss-free balance, ReMoE, and a dense model.
`--mode=eval` tests again from the checkpoints; `--mode=compile` compiles the step of Switch for a TPU slice.
"""

from experiments.dts_gate import study
from jaxgen import launch

launch.run(study.MODES, study.validate, runtime=study.RUNTIME)
