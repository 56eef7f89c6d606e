"""Networks: asking any model for logits, features, layers and costs, and the folder that it is kept in."""
