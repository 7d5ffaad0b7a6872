# %% phrasings
# Write a function that counts the Collatz steps to reach 1.
# How many Collatz steps does n take, in Python?
# Give me collatz_steps(n).
# I need the length of the 3n + 1 sequence of a number.
# Implement the Collatz conjecture step counter.
# Code for counting Collatz steps
# Can you count how many steps the Collatz rule needs?

# %% solution
def collatz_steps(number: int) -> int:
    """Return how many Collatz steps lead from the number to 1."""
    steps = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps

# %% naive
def collatz_steps(n):
    steps = 0
    while n != 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        steps += 1
    return steps

# %% rejected: correctness
def collatz_steps(number: int) -> int:
    """Return how many Collatz steps lead from the number to 1."""
    steps = 1
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps

# %% rejected: correctness
def collatz_steps(number: int) -> int:
    """Return how many Collatz steps lead from the number to 1."""
    steps = 0
    while number > 1:
        number = number // 2
        steps += 1
    return steps

# %% rejected: efficiency
def collatz_steps(number: int) -> int:
    """Return how many Collatz steps lead from the number to 1."""
    seen = [number]
    while seen[-1] != 1:
        last = seen[-1]
        seen = [value for value in seen] + [last // 2 if last % 2 == 0 else 3 * last + 1]
    return len(seen) - 1

# %% tests
assert collatz_steps(1) == 0
assert collatz_steps(2) == 1
assert collatz_steps(6) == 8
assert collatz_steps(7) == 16

# %% sizes
collatz_steps(6)
collatz_steps(27)
