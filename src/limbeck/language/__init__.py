"""Language models: which positions are compared, how text becomes examples, where their logits come from."""
