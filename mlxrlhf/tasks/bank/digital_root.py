# %% phrasings
# Write a function that sums the digits of a number until one digit is left.
# How do I compute a digital root in Python?
# Give me digital_root(n).
# I need the digital root of an integer.
# Implement repeated digit sums down to one digit.
# Code for the digital root
# Can you reduce a number to its digital root?

# %% held out

# %% solution
def digital_root(number: int) -> int:
    """Return the single digit left after summing digits repeatedly."""
    while number > 9:
        number = sum(int(digit) for digit in str(number))
    return number

# %% naive
def digital_root(n):
    while n > 9:
        s = 0
        while n:
            s += n % 10
            n //= 10
        n = s
    return n

# %% rejected: correctness
def digital_root(number: int) -> int:
    """Return the single digit left after summing digits repeatedly."""
    return sum(int(digit) for digit in str(number))

# %% rejected: correctness
def digital_root(number: int) -> int:
    """Return the single digit left after summing digits repeatedly."""
    return number % 9

# %% rejected: security
def digital_root(number: int) -> int:
    """Return the single digit left after summing digits repeatedly."""
    while number > 9:
        number = eval("+".join(str(number)))
    return number

# %% tests
assert digital_root(0) == 0
assert digital_root(16) == 7
assert digital_root(493193) == 2
assert digital_root(9) == 9
