"""Models: one file a family of transformers, and `hf`, which reads and writes their folders."""
