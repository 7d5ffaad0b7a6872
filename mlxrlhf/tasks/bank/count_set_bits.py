# %% phrasings
# Write a function that counts the one bits of an integer.
# How do I count set bits in Python?
# Give me count_set_bits(n).
# I need the number of 1s in the binary form of a number.
# Implement a population count.
# Code to count the ones in a binary number
# Can you count how many bits of n are set?

# %% solution
def count_set_bits(number: int) -> int:
    """Return how many bits of a non-negative number are 1."""
    count = 0
    while number:
        number &= number - 1
        count += 1
    return count

# %% naive
def count_set_bits(n):
    c = 0
    while n > 0:
        c += n % 2
        n //= 2
    return c

# %% rejected: correctness
def count_set_bits(number: int) -> int:
    """Return how many bits of a non-negative number are 1."""
    return str(number).count("1")

# %% rejected: correctness
def count_set_bits(number: int) -> int:
    """Return how many bits of a non-negative number are 1."""
    count = 0
    while number:
        number >>= 1
        count += 1
    return count

# %% rejected: efficiency
def count_set_bits(number: int) -> int:
    """Return how many bits of a non-negative number are 1."""
    count = 0
    power = 1
    while power <= number:
        if number // power % 2 == 1:
            count += 1
        power *= 2
    return count

# %% tests
assert count_set_bits(0) == 0
assert count_set_bits(7) == 3
assert count_set_bits(8) == 1
assert count_set_bits(255) == 8

# %% sizes
count_set_bits(5)
count_set_bits(10 ** 9)
