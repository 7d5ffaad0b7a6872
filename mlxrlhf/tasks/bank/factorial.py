# %% phrasings
# Write a function that computes the factorial of n.
# How do I calculate a factorial in Python?
# Give me factorial(n) in Python.
# I need the factorial of a number.
# Implement factorial for non-negative integers.
# Write a Python function to compute the factorial.
# Code for n factorial, please.

# %% solution
def factorial(n: int) -> int:
    """Return the product of the integers from 1 to n."""
    product = 1
    for factor in range(2, n + 1):
        product *= factor
    return product

# %% naive
def factorial(n):
    if n == 0:
        return 1
    return n * factorial(n - 1)

# %% rejected: correctness
def factorial(n: int) -> int:
    """Return the product of the integers from 1 to n."""
    product = 1
    for factor in range(1, n):
        product *= factor
    return product

# %% rejected: correctness
def factorial(number: int) -> int:
    """Return the product of the integers from 1 to the number."""
    if number == 1:
        return 1
    result = number + factorial(number - 1)
    return result

# %% rejected: security
def factorial(n: int) -> int:
    """Return the product of the integers from 1 to n."""
    return eval("*".join(str(factor) for factor in range(1, n + 1)) or "1")

# %% tests
assert factorial(0) == 1
assert factorial(1) == 1
assert factorial(5) == 120
assert factorial(10) == 3628800
