# %% phrasings
# Write a function that checks whether a number is a perfect square.
# How do I test for a perfect square in Python?
# Give me is_perfect_square(n).
# I need to know if an integer is a square number.
# Implement a perfect square test without floats.
# Code to see if n is a perfect square
# Can you tell me if a number is the square of an integer?

# %% held out

# %% solution
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    root = 0
    while root * root < number:
        root += 1
    return root * root == number

# %% naive
def is_perfect_square(n):
    r = 0
    while r * r < n:
        r += 1
    return r * r == n

# %% rejected: correctness
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    root = number // 2
    return root * root == number

# %% rejected: correctness
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    root = 0
    while root * root < number:
        root += 1
    return root * root >= number

# %% rejected: efficiency
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    squares = [root * root for root in range(number + 1)]
    return any(square == number for square in squares)

# %% rejected: security
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    return any(eval(f"{root} ** 2") == number for root in range(number + 1))

# %% tests
assert is_perfect_square(0)
assert is_perfect_square(49)
assert not is_perfect_square(50)
assert not is_perfect_square(-4)
assert is_perfect_square(1)

# %% sizes
is_perfect_square(36)
is_perfect_square(2500)
