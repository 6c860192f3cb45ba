"""Training of Video-XL on transformers' Trainer."""
