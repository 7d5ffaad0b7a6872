# %% phrasings
# Write a function that finds the second largest number.
# How do I write the second largest number in Python?
# Give me a Python function second_largest.
# I need code for the second largest number: it finds the second largest number.
# Implement the second largest number.
# Write a Python function for the second largest number
# Can you write code that finds the second largest number?

# %% held out

# %% solution
def second_largest(numbers: list[int]) -> int:
    """Return the second largest distinct number."""
    return sorted(set(numbers))[-2]

# %% naive
def second_largest(a):
    m = max(a)
    return max(x for x in a if x != m)

# %% rejected: correctness
def second_largest(numbers: list[int]) -> int:
    """Return the second largest distinct number."""
    return sorted(numbers)[-2]

# %% rejected: correctness
def second_largest(numbers: list[int]) -> int:
    """Return the second largest distinct number."""
    return sorted(set(numbers))[1]

# %% tests
assert second_largest([1, 3, 2]) == 2
assert second_largest([5, 5, 4]) == 4
assert second_largest([-1, -2]) == -2
