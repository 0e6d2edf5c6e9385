"""Evaluation: pure functions on arrays, plus probes from scikit-learn."""
