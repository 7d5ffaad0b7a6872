"""Align a language model on a Mac: pretraining, fine-tuning, reward modelling and PPO on MLX."""

__version__ = "0.1.0"
