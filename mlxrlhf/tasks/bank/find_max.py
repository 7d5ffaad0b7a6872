# %% phrasings
# Write a function that finds the largest number of a list.
# How do I write the largest number in Python?
# Give me a Python function find_max.
# I need code for the largest number: it finds the largest number of a list.
# Implement the largest number.
# Write a Python function for the largest number
# Can you write code that finds the largest number of a list?

# %% solution
def find_max(numbers: list[int]) -> int:
    """Return the largest of the numbers."""
    largest = numbers[0]
    for number in numbers[1:]:
        if number > largest:
            largest = number
    return largest

# %% naive
def find_max(a):
    m = a[0]
    for x in a:
        if x > m:
            m = x
    return m

# %% rejected: correctness
def find_max(numbers: list[int]) -> int:
    """Return the largest of the numbers."""
    largest = 0
    for number in numbers:
        if number > largest:
            largest = number
    return largest

# %% rejected: correctness
def find_max(numbers: list[int]) -> int:
    """Return the largest of the numbers."""
    return numbers[-1]

# %% rejected: efficiency
def find_max(numbers: list[int]) -> int:
    """Return the largest of the numbers."""
    for number in numbers:
        if all(number >= other for other in numbers):
            return number
    return numbers[0]

# %% tests
assert find_max([1, 3, 2]) == 3
assert find_max([-5, -2]) == -2
assert find_max([7]) == 7

# %% sizes
find_max([1, 2, 3, 4])
find_max(list(range(60)))
