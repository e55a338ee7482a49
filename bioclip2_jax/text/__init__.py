"""Text on its way into the model: the tokenizer and the zero-shot templates."""
