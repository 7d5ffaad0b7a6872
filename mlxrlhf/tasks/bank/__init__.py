"""The tasks, one module per field; each module's TASKS is a tuple of `mlxrlhf.tasks.task.Task`."""
