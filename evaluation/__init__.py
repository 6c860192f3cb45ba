"""Evaluation: needles in long videos, and the families of tasks."""
