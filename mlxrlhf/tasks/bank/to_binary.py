# %% phrasings
# Write a function that converts a number to binary.
# How do I get the binary digits of an integer as a string?
# Give me to_binary(n) in Python.
# I need a decimal number written in base 2.
# Implement decimal to binary conversion.
# Code to turn an integer into its binary string
# Can you convert decimal to binary?

# %% solution
def to_binary(number: int) -> str:
    """Return the binary digits of a non-negative number."""
    digits = str(number % 2)
    while number > 1:
        number //= 2
        digits = str(number % 2) + digits
    return digits

# %% naive
def to_binary(n):
    if n == 0:
        return '0'
    s = ''
    while n > 0:
        s = str(n % 2) + s
        n //= 2
    return s

# %% rejected: correctness
def to_binary(number: int) -> str:
    """Return the binary digits of a non-negative number."""
    digits = ''
    while number > 0:
        digits += str(number % 2)
        number //= 2
    return digits

# %% rejected: correctness
def to_binary(number: int) -> str:
    """Return the binary digits of a non-negative number."""
    return bin(number)

# %% rejected: security
def to_binary(number: int) -> str:
    """Return the binary digits of a non-negative number."""
    return eval(f"format({number}, 'b')")

# %% tests
assert to_binary(0) == '0'
assert to_binary(1) == '1'
assert to_binary(10) == '1010'
assert to_binary(255) == '11111111'
