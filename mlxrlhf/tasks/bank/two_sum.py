# %% phrasings
# Write a function that finds the two numbers that add up to a target.
# How do I write two sum in Python?
# Give me a Python function two_sum.
# I need code for two sum: it finds the two numbers that add up to a target.
# Implement two sum.
# Write a Python function for two sum
# Can you write code that finds the two numbers that add up to a target?

# %% solution
def two_sum(numbers: list[int], target: int) -> list[int]:
    """Return the indices of two numbers with that sum."""
    seen: dict[int, int] = {}
    for index, number in enumerate(numbers):
        if target - number in seen:
            return [seen[target - number], index]
        seen[number] = index
    return []

# %% naive
def two_sum(a, t):
    for i in range(len(a)):
        for j in range(i + 1, len(a)):
            if a[i] + a[j] == t:
                return [i, j]
    return []

# %% rejected: correctness
def two_sum(numbers: list[int], target: int) -> list[int]:
    """Return the indices of two numbers with that sum."""
    for index, number in enumerate(numbers):
        if target - number in numbers:
            return [index, numbers.index(target - number)]
    return []

# %% rejected: efficiency
def two_sum(numbers: list[int], target: int) -> list[int]:
    """Return the indices of two numbers with that sum."""
    for first in range(len(numbers)):
        for second in range(first + 1, len(numbers)):
            if numbers[first] + numbers[second] == target:
                return [first, second]
    return []

# %% tests
assert two_sum([2, 7, 11], 9) == [0, 1]
assert two_sum([3, 3], 6) == [0, 1]
assert two_sum([1], 2) == []

# %% sizes
two_sum(list(range(9)), 15)
two_sum(list(range(90)), 177)
