# %% phrasings
# Write a function that finds a number in a sorted list by binary search.
# How do I write binary search in Python?
# Give me a Python function binary_search.
# I need code for binary search: it finds a number in a sorted list by binary search.
# Implement binary search.
# Write a Python function for binary search
# Can you write code that finds a number in a sorted list by binary search?

# %% solution
def binary_search(numbers: list[int], target: int) -> int:
    """Return the index of the target, or -1."""
    low, high = 0, len(numbers) - 1
    while low <= high:
        middle = (low + high) // 2
        if numbers[middle] == target:
            return middle
        if numbers[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1

# %% naive
def binary_search(a, t):
    for i in range(len(a)):
        if a[i] == t:
            return i
    return -1

# %% rejected: correctness
def binary_search(numbers: list[int], target: int) -> int:
    """Return the index of the target, or -1."""
    low, high = 0, len(numbers) - 1
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < target:
            low = middle + 1
        else:
            high = middle
    return low

# %% rejected: efficiency
def binary_search(numbers: list[int], target: int) -> int:
    """Return the index of the target, or -1."""
    for index, number in enumerate(numbers):
        if number == target:
            return index
    return -1

# %% tests
assert binary_search([1, 3, 5], 5) == 2
assert binary_search([1, 3, 5], 1) == 0
assert binary_search([1, 3], 2) == -1
assert binary_search([], 1) == -1

# %% sizes
binary_search(list(range(90)), 89)
binary_search(list(range(900)), 899)
