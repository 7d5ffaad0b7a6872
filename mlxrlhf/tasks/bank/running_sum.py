# %% phrasings
# Write a function that computes the running sums of a list.
# How do I write running sums in Python?
# Give me a Python function running_sum.
# I need code for running sums: it computes the running sums of a list.
# Implement running sums.
# Write a Python function for running sums
# Can you write code that computes the running sums of a list?

# %% solution
def running_sum(numbers: list[int]) -> list[int]:
    """Return the sum up to each position."""
    sums, total = [], 0
    for number in numbers:
        total += number
        sums.append(total)
    return sums

# %% naive
def running_sum(a):
    r = []
    for i in range(len(a)):
        r.append(sum(a[:i + 1]))
    return r

# %% rejected: correctness
def running_sum(numbers: list[int]) -> list[int]:
    """Return the sum up to each position."""
    sums, total = [], 0
    for number in numbers:
        sums.append(total)
        total += number
    return sums

# %% rejected: efficiency
def running_sum(numbers: list[int]) -> list[int]:
    """Return the sum up to each position."""
    sums = []
    for end in range(len(numbers)):
        total = 0
        for position in range(end + 1):
            total += numbers[position]
        sums.append(total)
    return sums

# %% tests
assert running_sum([1, 2, 3]) == [1, 3, 6]
assert running_sum([]) == []
assert running_sum([5]) == [5]

# %% sizes
running_sum([1, 2, 3])
running_sum(list(range(40)))
