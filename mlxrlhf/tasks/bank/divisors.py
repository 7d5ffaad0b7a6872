# %% phrasings
# Write a function that lists all divisors of a number.
# How do I find the divisors of n?
# Give me divisors(n) in Python.
# I need every number that divides n evenly.
# Implement a function returning all factors of an integer.
# Code to get the divisors of an integer
# Can you find all the numbers that divide n?

# %% solution
def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number in ascending order."""
    return [value for value in range(1, number + 1) if number % value == 0]

# %% naive
def divisors(n):
    result = []
    for i in range(1, n + 1):
        if n % i == 0:
            result.append(i)
    return result

# %% rejected: correctness
def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number in ascending order."""
    return [value for value in range(1, number) if number % value == 0]

# %% rejected: correctness
def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number in ascending order."""
    return [value for value in range(1, number + 1) if value % number == 0]

# %% rejected: security
def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number in ascending order."""
    return [value for value in range(1, number + 1) if eval(f"{number} % {value} == 0")]

# %% tests
assert divisors(6) == [1, 2, 3, 6]
assert divisors(1) == [1]
assert divisors(7) == [1, 7]
assert divisors(9) == [1, 3, 9]
