# %% phrasings
# Write a function that returns the n-th Fibonacci number.
# How do I compute Fibonacci numbers?
# Give me fibonacci(n) in Python.
# I need the n-th number of the Fibonacci sequence.
# Implement Fibonacci efficiently.
# Write a Fibonacci function in Python.
# Code for the Fibonacci sequence, n-th term.

# %% solution
def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number, counting from 0."""
    current, following = 0, 1
    for _ in range(n):
        current, following = following, current + following
    return current

# %% naive
def fibonacci(n):
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)

# %% rejected: correctness
def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number, counting from 0."""
    current, following = 1, 1
    for _ in range(n):
        current, following = following, current + following
    return current

# %% rejected: efficiency
def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number, counting from 0."""
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)

# %% tests
assert fibonacci(0) == 0
assert fibonacci(1) == 1
assert fibonacci(2) == 1
assert fibonacci(10) == 55

# %% sizes
fibonacci(8)
fibonacci(16)
