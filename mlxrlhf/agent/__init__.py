"""What the model can do with its answers: run code in a sandbox, and call tools."""
