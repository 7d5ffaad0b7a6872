"""What a run leaves behind: metrics, a verdict in words, and a page of curves."""
