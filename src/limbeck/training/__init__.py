"""Training: DistillTrainer, its settings, and what is checked before and measured while it runs."""
