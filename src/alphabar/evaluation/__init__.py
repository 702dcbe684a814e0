"""Evaluation: how good a model is, measured against real pictures. Sees denoisers and their schedules, never a network."""
