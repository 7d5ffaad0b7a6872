# %% phrasings
# Write a function that gives the percentage change between two values.
# How do I compute a percent change in Python?
# Give me percentage_change(old, new).
# I need to know by how many percent a price went up or down.
# Implement percentage change from an old to a new value.
# Code for percent change between two numbers
# Can you compute how many percent a value grew?

# %% solution
def percentage_change(old: float, new: float) -> float:
    """Return the change from old to new in percent of old."""
    return (new - old) / old * 100

# %% naive
def percentage_change(old, new):
    diff = new - old
    return diff / old * 100

# %% rejected: correctness
def percentage_change(old: float, new: float) -> float:
    """Return the change from old to new in percent of old."""
    return (new - old) / new * 100

# %% rejected: correctness
def percentage_change(old: float, new: float) -> float:
    """Return the change from old to new in percent of old."""
    return abs(new - old) / old * 100

# %% rejected: security
def percentage_change(old: float, new: float) -> float:
    """Return the change from old to new in percent of old."""
    return eval(f"({new} - {old}) / {old} * 100")

# %% tests
assert percentage_change(50, 75) == 50
assert percentage_change(100, 80) == -20
assert percentage_change(10, 10) == 0
