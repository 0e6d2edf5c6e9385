"""Backbones as flax.nnx modules. Modules are pytrees: pass them to jit, grad and vmap directly."""
