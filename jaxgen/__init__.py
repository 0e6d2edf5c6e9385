"""jaxgen: generative modelling of text, sequences and images as pure JAX functions."""

__version__ = "0.1.0"
