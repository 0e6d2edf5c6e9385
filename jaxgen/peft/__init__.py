"""Adapting trained models: low-rank updates."""
