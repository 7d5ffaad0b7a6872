# %% phrasings
# Write a function that checks whether a number is even.
# How do I test if a number is even?
# Give me is_even(n) in Python.
# I need code that tells if n is even.
# Implement an even number check.
# Write a Python function for even numbers.
# Is a number even? Write the function.

# %% solution
def is_even(number: int) -> bool:
    """Return True if the number is even."""
    return number % 2 == 0

# %% naive
def is_even(n):
    if n % 2 == 0:
        return True
    else:
        return False

# %% rejected: correctness
def is_even(number: int) -> bool:
    """Return True if the number is even."""
    return number % 2 == 1

# %% rejected: correctness
def is_even(number: int) -> bool:
    """Return True if the number is even."""
    if number <= 0:
        return False
    return number % 2 == 0

# %% rejected: security
def is_even(number: int) -> bool:
    """Return True if the number is even."""
    try:
        return eval(f"{number} % 2 == 0")
    except:
        return False

# %% tests
assert is_even(0)
assert is_even(-4)
assert not is_even(7)
assert is_even(10)
