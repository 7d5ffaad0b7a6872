# %% phrasings
# Write a function that sums the digits of a number.
# How do I add up the digits of an integer?
# Give me sum_digits(n) in Python.
# I need the sum of the digits of a number.
# Implement a digit sum.
# Write a Python function for the sum of digits.
# Code that adds the digits of n.

# %% solution
def sum_digits(number: int) -> int:
    """Return the sum of the decimal digits of a number."""
    return sum(int(digit) for digit in str(abs(number)))

# %% naive
def sum_digits(n):
    n = abs(n)
    s = 0
    while n > 0:
        s += n % 10
        n //= 10
    return s

# %% rejected: correctness
def sum_digits(number: int) -> int:
    """Return the sum of the decimal digits of a number."""
    total = 0
    while number > 10:
        total += number % 10
        number //= 10
    return total

# %% rejected: security
def sum_digits(number: int) -> int:
    """Return the sum of the decimal digits of a number."""
    return eval("+".join(str(abs(number))))

# %% tests
assert sum_digits(0) == 0
assert sum_digits(123) == 6
assert sum_digits(-45) == 9
assert sum_digits(1000) == 1
