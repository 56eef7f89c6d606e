"""Text: records become rows of token ids, padded or packed into batches."""
