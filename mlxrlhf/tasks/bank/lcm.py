# %% phrasings
# Write a function for the least common multiple of two numbers.
# How do I compute the lcm of two integers?
# Give me lcm(a, b) in Python.
# I need the smallest number that both inputs divide.
# Implement the least common multiple.
# Code that returns the lcm of two positive integers
# Can you calculate a least common multiple for me?

# %% solution
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    multiple = first
    while multiple % second != 0:
        multiple += first
    return multiple

# %% naive
def lcm(a, b):
    m = a
    while m % b != 0:
        m += a
    return m

# %% rejected: correctness
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    return first * second

# %% rejected: correctness
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    return max(first, second)

# %% rejected: efficiency
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    multiple = 1
    while multiple % first != 0 or multiple % second != 0:
        multiple += 1
    return multiple

# %% rejected: security
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    multiple = first
    while eval(f"{multiple} % {second}") != 0:
        multiple += first
    return multiple

# %% tests
assert lcm(4, 6) == 12
assert lcm(1, 7) == 7
assert lcm(5, 5) == 5
assert lcm(3, 8) == 24

# %% sizes
lcm(4, 6)
lcm(40, 66)
