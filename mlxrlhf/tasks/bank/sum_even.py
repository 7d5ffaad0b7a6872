# %% phrasings
# Write a function that sums the even numbers of a list.
# How do I write summing even numbers in Python?
# Give me a Python function sum_even.
# I need code for summing even numbers: it sums the even numbers of a list.
# Implement summing even numbers.
# Write a Python function for summing even numbers
# Can you write code that sums the even numbers of a list?

# %% solution
def sum_even(numbers: list[int]) -> int:
    """Return the sum of the even numbers."""
    return sum(number for number in numbers if number % 2 == 0)

# %% naive
def sum_even(a):
    s = 0
    for x in a:
        if x % 2 == 0:
            s += x
    return s

# %% rejected: correctness
def sum_even(numbers: list[int]) -> int:
    """Return the sum of the even numbers."""
    return sum(number for number in numbers if number % 2 == 1)

# %% rejected: correctness
def sum_even(numbers: list[int]) -> int:
    """Return the sum of the even numbers."""
    return len([number for number in numbers if number % 2 == 0])

# %% rejected: security
def sum_even(numbers: list[int]) -> int:
    """Return the sum of the even numbers."""
    return eval('+'.join(str(number) for number in numbers if number % 2 == 0) or '0')

# %% tests
assert sum_even([1, 2, 4]) == 6
assert sum_even([]) == 0
assert sum_even([-2, 3]) == -2
