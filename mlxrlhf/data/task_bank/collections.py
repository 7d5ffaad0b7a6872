"""Tasks on collections."""

TASKS = ()
