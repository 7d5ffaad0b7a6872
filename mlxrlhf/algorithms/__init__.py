"""The mathematics, written once: neither mlx nor torch is imported here."""
