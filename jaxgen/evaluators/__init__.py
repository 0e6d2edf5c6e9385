"""Trained judges: of text, images and proteins. None of them steers or sees what it judges."""
