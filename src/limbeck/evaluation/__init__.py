"""Evaluation: models and test sets become predictions, and predictions become results with a verdict."""
