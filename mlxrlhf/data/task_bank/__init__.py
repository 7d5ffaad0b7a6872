"""The tasks, one module per field; each module's TASKS is a tuple of `mlxrlhf.data.tasks.Task`."""
