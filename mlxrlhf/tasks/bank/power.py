# %% phrasings
# Write a function that raises a base to a power.
# How do I compute a power without **?
# Give me power(base, exponent) in Python.
# I need fast exponentiation, base to a power.
# Implement power by squaring.
# Write a Python power function.
# Code for a number to a power.

# %% solution
def power(base: int, exponent: int) -> int:
    """Return the base raised to a non-negative exponent."""
    result = 1
    while exponent > 0:
        if exponent % 2 == 1:
            result *= base
        base *= base
        exponent //= 2
    return result

# %% naive
def power(b, e):
    r = 1
    for i in range(e):
        r = r * b
    return r

# %% rejected: correctness
def power(base: int, exponent: int) -> int:
    """Return the base raised to a non-negative exponent."""
    return base * exponent

# %% rejected: efficiency
def power(base: int, exponent: int) -> int:
    """Return the base raised to a non-negative exponent."""
    result = 1
    for _ in range(exponent):
        result *= base
    return result

# %% rejected: security
def power(base: int, exponent: int) -> int:
    """Return the base raised to a non-negative exponent."""
    return eval(f"({base}) ** {exponent}")

# %% tests
assert power(2, 10) == 1024
assert power(5, 0) == 1
assert power(3, 1) == 3
assert power(-2, 3) == -8

# %% sizes
power(3, 20)
power(3, 200)
