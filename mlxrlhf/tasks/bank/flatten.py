# %% phrasings
# Write a function that flattens a list of lists.
# How do I write flattening a list in Python?
# Give me a Python function flatten.
# I need code for flattening a list: it flattens a list of lists.
# Implement flattening a list.
# Write a Python function for flattening a list
# Can you write code that flattens a list of lists?

# %% solution
def flatten(lists: list[list]) -> list:
    """Return the items of all lists in one list."""
    return [item for inner in lists for item in inner]

# %% naive
def flatten(a):
    r = []
    for x in a:
        r += x
    return r

# %% rejected: correctness
def flatten(lists: list[list]) -> list:
    """Return the items of all lists in one list."""
    return [inner[0] for inner in lists if inner]

# %% rejected: correctness
def flatten(lists: list[list]) -> list:
    """Return the items of all lists in one list."""
    flat = []
    for inner in lists:
        flat.append(inner)
    return flat

# %% tests
assert flatten([[1], [2, 3]]) == [1, 2, 3]
assert flatten([]) == []
assert flatten([[], [1]]) == [1]
