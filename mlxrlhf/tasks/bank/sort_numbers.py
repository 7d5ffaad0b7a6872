# %% phrasings
# Write a function that sorts a list of numbers.
# How do I write sorting numbers in Python?
# Give me a Python function sort_numbers.
# I need code for sorting numbers: it sorts a list of numbers.
# Implement sorting numbers.
# Write a Python function for sorting numbers
# Can you write code that sorts a list of numbers?

# %% held out

# %% solution
def sort_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers in ascending order."""
    return sorted(numbers)

# %% naive
def sort_numbers(a):
    a = list(a)
    a.sort()
    return a

# %% rejected: correctness
def sort_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers in ascending order."""
    return sorted(numbers, reverse=True)

# %% rejected: correctness
def sort_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers in ascending order."""
    return sorted(set(numbers))

# %% rejected: efficiency
def sort_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers in ascending order."""
    ordered = list(numbers)
    for end in range(len(ordered)):
        for i in range(len(ordered) - 1 - end):
            if ordered[i] > ordered[i + 1]:
                ordered[i], ordered[i + 1] = ordered[i + 1], ordered[i]
    return ordered

# %% tests
assert sort_numbers([3, 1, 2]) == [1, 2, 3]
assert sort_numbers([]) == []
assert sort_numbers([2, 2, 1]) == [1, 2, 2]

# %% sizes
sort_numbers([3, 1, 2])
sort_numbers(list(range(40, 0, -1)))
