"""Scores of models on the tabletop world: questions with true answers, plans and metrics."""
