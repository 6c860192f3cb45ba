"""Checkpoints of the authors into ours, and ours into a bundle for the Hub."""
