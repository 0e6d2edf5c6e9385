"""Text content manipulation: a record's content in the style of a reference sentence (Wang et al., 2019).

    python -m experiments.content_manipulation --config=configs/content_manipulation/grammar.py --workdir=runs/content

An item has a record x, a reference y_ref with its own record x_ref, and a sentence y_aux that states x in another
style; what is asked for, x in the style of y_ref, is nowhere. Two objectives compete over one decoder that copies
values from the record:

    (1 - lambda) [-log p(y_aux | x, y_ref) + eta C(x)] + lambda [-log p(y_ref | x_ref, y_ref) + eta C(x_ref)]

with C the coverage of a record's tuples. What the systems are stands in `systems.py`. `--mode=eval` tests again what
is trained; `--mode=rewrite --record='[["PLAYER-PTS", "20", "Alado"], ...]' --reference="..."` writes the record in
the style of the sentence, and without the two reads lines {"record": [...], "reference": "..."} from the standard
input; `--mode=compile` compiles the train step for `--config.mesh.topology=v5p:4x4x4`.
"""

from experiments.content_manipulation import study
from jaxgen import launch

launch.run(
    study.MODES,
    study.validate,
    runtime=study.RUNTIME,
    aliases={
        "record": "config.rewrite.record",
        "reference": "config.rewrite.reference",
    },
)
