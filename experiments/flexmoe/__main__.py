"""FlexMoE: experts that follow the load, beside placements that do not or that follow it otherwise.

    python -m experiments.flexmoe --config=configs/moe/flexmoe.py --workdir=runs/flexmoe

One model (a GPT on text, or a vision transformer on digits) is trained under each policy on a mesh whose axis
`expert` is the group of G devices. Policies see the router's counts of the step before and place experts;
weights, optimiser state and routing follow while training goes on. All but `capacity` drop nothing, so they
all train the same model; their loss curves must be equal. What steps would take on real devices is modelled
(`jaxgen.moe.placement.simulator`): forced host devices share two cores. Router traffic and placements are written to
`traffic/`, and the report shows them.
"""

from experiments.flexmoe import study
from jaxgen import launch

launch.run(study.MODES, study.validate, runtime=study.RUNTIME)
