"""Text: tokenizers, masks and noise of tokens, decoding."""
