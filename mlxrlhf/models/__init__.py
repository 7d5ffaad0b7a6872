"""Checkpoints, save points, adapters and published models: everything a model is on disk."""
