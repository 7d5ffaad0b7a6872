"""Pairs of answers of which one is preferred: made, read from files, encoded."""
