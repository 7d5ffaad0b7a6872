"""One file per stage, each with one run(); neither mlx nor torch is imported here."""
