"""The shape of a stack: sizes that follow from others, and what cannot be."""

import pytest

from jaxgen.models import vit
from jaxgen.nn.transformer_config import TransformerConfig


def test_sizes_that_are_not_said_follow_from_the_width():
    config = TransformerConfig(width=12, depth=1, heads=3)
    assert (config.head_dim, config.mlp_width) == (4, 48)
    assert config == TransformerConfig(width=12, depth=1, heads=3, head_dim=4, mlp_width=48)
    # T5's heads need not fill the width.
    assert TransformerConfig(width=12, depth=1, heads=5, head_dim=6).head_dim == 6


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"width": 0}, "width is 0, allowed: at least 1"),
        ({"heads": 5}, "heads is 5, allowed: a divisor of the width 12"),
        ({"head_dim": -1}, "head_dim is -1, allowed: at least 1"),
        ({"mlp_width": -1}, "mlp_width is -1, allowed: at least 1"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be(sizes, text):
    with pytest.raises(ValueError, match=text):
        TransformerConfig(**{"width": 12, "depth": 1, "heads": 3, **sizes})


def test_the_constructor_of_vision_transformers():
    config = vit.config(4, patch=2, channels=1, classes=3, width=8, depth=2, heads=2)
    stack = TransformerConfig(8, 2, 2, causal=False)
    assert config == vit.ViTConfig(4, 2, 1, 3, stack)
