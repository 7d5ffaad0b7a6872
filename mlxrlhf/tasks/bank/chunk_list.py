# %% phrasings
# Write a function that splits a list into chunks.
# How do I write chunking a list in Python?
# Give me a Python function chunk_list.
# I need code for chunking a list: it splits a list into chunks.
# Implement chunking a list.
# Write a Python function for chunking a list
# Can you write code that splits a list into chunks?

# %% solution
def chunk_list(items: list, size: int) -> list[list]:
    """Return consecutive parts of at most that size."""
    return [items[i:i + size] for i in range(0, len(items), size)]

# %% naive
def chunk_list(a, n):
    r = []
    while a:
        r.append(a[:n])
        a = a[n:]
    return r

# %% rejected: correctness
def chunk_list(items: list, size: int) -> list[list]:
    """Return consecutive parts of at most that size."""
    return [items[i:i + size] for i in range(len(items))]

# %% rejected: correctness
def chunk_list(items: list, size: int) -> list[list]:
    """Return consecutive parts of at most that size."""
    return [items[:size], items[size:]]

# %% tests
assert chunk_list([1, 2, 3], 2) == [[1, 2], [3]]
assert chunk_list([], 2) == []
assert chunk_list([1, 2], 2) == [[1, 2]]
