# %% phrasings
# Write a function that checks for an Armstrong number.
# How do I test whether a number is an Armstrong number?
# Give me is_armstrong(n) in Python.
# I need to know if a number equals the sum of its digits raised to their count.
# Implement a narcissistic number check.
# Code for checking Armstrong numbers
# Can you tell whether an integer is an Armstrong number?

# %% solution
def is_armstrong(number: int) -> bool:
    """Return True if the digits, raised to their count, sum to the number."""
    digits = str(number)
    return sum(int(digit) ** len(digits) for digit in digits) == number

# %% naive
def is_armstrong(n):
    s = str(n)
    total = 0
    for c in s:
        total += int(c) ** len(s)
    return total == n

# %% rejected: correctness
def is_armstrong(number: int) -> bool:
    """Return True if the digits, raised to their count, sum to the number."""
    return sum(int(digit) ** 3 for digit in str(number)) == number

# %% rejected: correctness
def is_armstrong(number: int) -> bool:
    """Return True if the digits, raised to their count, sum to the number."""
    digits = str(number)
    return sum(int(digit) * len(digits) for digit in digits) == number

# %% rejected: security
def is_armstrong(number: int) -> bool:
    """Return True if the digits, raised to their count, sum to the number."""
    digits = str(number)
    return eval("+".join(f"{digit} ** {len(digits)}" for digit in digits)) == number

# %% tests
assert is_armstrong(153)
assert is_armstrong(9474)
assert not is_armstrong(10)
assert is_armstrong(7)
assert not is_armstrong(154)
