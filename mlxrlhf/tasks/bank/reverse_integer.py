# %% phrasings
# Write a function that reverses the digits of an integer.
# How do I reverse a number in Python and keep its sign?
# Give me reverse_integer(n).
# I need an integer with its digits in the opposite order.
# Implement reversing an integer.
# Code to reverse the digits of a number
# Can you flip the digits of an int, negative ones too?

# %% solution
def reverse_integer(number: int) -> int:
    """Return the number with its digits reversed and its sign kept."""
    digits = int(str(abs(number))[::-1])
    return -digits if number < 0 else digits

# %% naive
def reverse_integer(n):
    r = 0
    m = abs(n)
    while m > 0:
        r = r * 10 + m % 10
        m //= 10
    return -r if n < 0 else r

# %% rejected: correctness
def reverse_integer(number: int) -> int:
    """Return the number with its digits reversed and its sign kept."""
    return int(str(abs(number))[::-1])

# %% rejected: correctness
def reverse_integer(number: int) -> int:
    """Return the number with its digits reversed and its sign kept."""
    return -number

# %% rejected: security
def reverse_integer(number: int) -> int:
    """Return the number with its digits reversed and its sign kept."""
    digits = str(abs(number))[::-1].lstrip("0") or "0"
    return eval("-" + digits) if number < 0 else eval(digits)

# %% tests
assert reverse_integer(123) == 321
assert reverse_integer(-45) == -54
assert reverse_integer(0) == 0
assert reverse_integer(100) == 1
