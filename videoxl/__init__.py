"""Video-XL."""
