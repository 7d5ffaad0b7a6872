# %% phrasings
# Write a function that checks whether a list is sorted.
# How do I write a sorted check in Python?
# Give me a Python function is_sorted.
# I need code for a sorted check: it checks whether a list is sorted.
# Implement a sorted check.
# Write a Python function for a sorted check
# Can you write code that checks whether a list is sorted?

# %% solution
def is_sorted(numbers: list[int]) -> bool:
    """Return True if the numbers never fall."""
    return all(a <= b for a, b in zip(numbers, numbers[1:]))

# %% naive
def is_sorted(a):
    for i in range(len(a) - 1):
        if a[i] > a[i + 1]:
            return False
    return True

# %% rejected: correctness
def is_sorted(numbers: list[int]) -> bool:
    """Return True if the numbers never fall."""
    return all(a < b for a, b in zip(numbers, numbers[1:]))

# %% rejected: correctness
def is_sorted(numbers: list[int]) -> bool:
    """Return True if the numbers never fall."""
    return not numbers or numbers[0] <= numbers[-1]

# %% tests
assert is_sorted([1, 2, 2])
assert not is_sorted([2, 1])
assert is_sorted([])
assert not is_sorted([1, 3, 2, 4])
