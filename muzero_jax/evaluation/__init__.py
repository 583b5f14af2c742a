"""Scores: whole episodes, matches, and their statistics."""
