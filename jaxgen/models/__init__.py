"""What is trained: whole models, built from plain arguments."""
