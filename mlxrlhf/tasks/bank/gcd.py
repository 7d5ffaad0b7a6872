# %% phrasings
# Write a function for the greatest common divisor of two numbers.
# How do I compute a gcd?
# Give me gcd(a, b) in Python.
# I need the greatest common divisor of a and b.
# Implement Euclid's algorithm for the gcd.
# Write a Python gcd function.
# Code for the greatest common divisor, please.

# %% solution
def gcd(first: int, second: int) -> int:
    """Return the greatest common divisor of two numbers."""
    while second:
        first, second = second, first % second
    return abs(first)

# %% naive
def gcd(a, b):
    while b:
        a, b = b, a % b
    return abs(a)

# %% rejected: correctness
def gcd(first: int, second: int) -> int:
    """Return the greatest common divisor of two numbers."""
    while second:
        first, second = second, first // second
    return abs(first)

# %% rejected: efficiency
def gcd(first: int, second: int) -> int:
    """Return the greatest common divisor of two numbers."""
    best = max(abs(first), abs(second))
    for divisor in range(best, 0, -1):
        if first % divisor == 0 and second % divisor == 0:
            return divisor
    return best

# %% tests
assert gcd(12, 18) == 6
assert gcd(7, 5) == 1
assert gcd(0, 9) == 9
assert gcd(100, 10) == 10

# %% sizes
gcd(34, 21)
gcd(987, 610)
