"""A world of long videos, drawn frame by frame from a seed, with needles and questions about them."""
