# %% phrasings
# Write a function that merges two sorted lists.
# How do I write merging sorted lists in Python?
# Give me a Python function merge_sorted.
# I need code for merging sorted lists: it merges two sorted lists.
# Implement merging sorted lists.
# Write a Python function for merging sorted lists
# Can you write code that merges two sorted lists?

# %% solution
def merge_sorted(first: list[int], second: list[int]) -> list[int]:
    """Return both lists merged in order."""
    return sorted(first + second)

# %% naive
def merge_sorted(a, b):
    r = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] < b[j]:
            r.append(a[i])
            i += 1
        else:
            r.append(b[j])
            j += 1
    return r + a[i:] + b[j:]

# %% rejected: correctness
def merge_sorted(first: list[int], second: list[int]) -> list[int]:
    """Return both lists merged in order."""
    return first + second

# %% rejected: correctness
def merge_sorted(first: list[int], second: list[int]) -> list[int]:
    """Return both lists merged in order."""
    return sorted(set(first + second))

# %% tests
assert merge_sorted([1, 3], [2]) == [1, 2, 3]
assert merge_sorted([], [1]) == [1]
assert merge_sorted([1], [1]) == [1, 1]
