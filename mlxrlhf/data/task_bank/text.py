"""Tasks on text."""

TASKS = ()
