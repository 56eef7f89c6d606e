"""Networks: logits, hidden states, layers and cost of any model, and the folder that a model is saved in."""
