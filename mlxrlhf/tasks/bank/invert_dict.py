# %% phrasings
# Write a function that swaps the keys and values of a dictionary.
# How do I write inverting a dictionary in Python?
# Give me a Python function invert_dict.
# I need code for inverting a dictionary: it swaps the keys and values of a dictionary.
# Implement inverting a dictionary.
# Write a Python function for inverting a dictionary
# Can you write code that swaps the keys and values of a dictionary?

# %% solution
def invert_dict(mapping: dict) -> dict:
    """Return the mapping from values to keys."""
    return {value: key for key, value in mapping.items()}

# %% naive
def invert_dict(d):
    r = {}
    for k in d:
        r[d[k]] = k
    return r

# %% rejected: correctness
def invert_dict(mapping: dict) -> dict:
    """Return the mapping from values to keys."""
    return {key: value for key, value in mapping.items()}

# %% rejected: correctness
def invert_dict(mapping: dict) -> dict:
    """Return the mapping from values to keys."""
    return {value: value for value in mapping.values()}

# %% tests
assert invert_dict({'a': 1}) == {1: 'a'}
assert invert_dict({}) == {}
assert invert_dict({1: 2, 3: 4}) == {2: 1, 4: 3}
