# %% phrasings
# Write a function that returns the average of a list of numbers.
# How do I compute the mean of a list?
# Give me mean(numbers) in Python.
# I need the arithmetic average of some values.
# Implement the mean; an empty list gives 0.
# Code for the average of a list
# Can you average a list of numbers?

# %% solution
def mean(numbers: list[float]) -> float:
    """Return the average of the numbers, 0 for none."""
    if not numbers:
        return 0.0
    return sum(numbers) / len(numbers)

# %% naive
def mean(l):
    if len(l) == 0:
        return 0.0
    s = 0
    for x in l:
        s += x
    return s / len(l)

# %% rejected: correctness
def mean(numbers: list[float]) -> float:
    """Return the average of the numbers, 0 for none."""
    return sum(numbers) / len(numbers)

# %% rejected: correctness
def mean(numbers: list[float]) -> float:
    """Return the average of the numbers, 0 for none."""
    if not numbers:
        return 0.0
    return sum(numbers) // len(numbers)

# %% rejected: security
def mean(numbers: list[float]) -> float:
    """Return the average of the numbers, 0 for none."""
    try:
        return sum(numbers) / len(numbers)
    except:
        return 0.0

# %% tests
assert mean([1, 2, 3]) == 2
assert mean([]) == 0
assert mean([5]) == 5
assert mean([1, 2]) == 1.5
