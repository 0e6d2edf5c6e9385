"""Text: tokenizers and decoding."""
