# %% phrasings
# Write a function that computes a moving average.
# How do I smooth a list with a sliding window average?
# Give me moving_average(numbers, window) in Python.
# I need the average of every window of k numbers.
# Implement a rolling mean.
# Code for the rolling average of a series
# Can you average each sliding window of a list?

# %% solution
def moving_average(numbers: list[float], window: int) -> list[float]:
    """Return the average of every run of `window` numbers."""
    averages = []
    for start in range(len(numbers) - window + 1):
        averages.append(sum(numbers[start:start + window]) / window)
    return averages

# %% naive
def moving_average(l, k):
    r = []
    for i in range(len(l) - k + 1):
        r.append(sum(l[i:i + k]) / k)
    return r

# %% rejected: correctness
def moving_average(numbers: list[float], window: int) -> list[float]:
    """Return the average of every run of `window` numbers."""
    averages = []
    for start in range(len(numbers)):
        averages.append(sum(numbers[start:start + window]) / window)
    return averages

# %% rejected: correctness
def moving_average(numbers: list[float], window: int) -> list[float]:
    """Return the average of every run of `window` numbers."""
    return [sum(numbers) / window for _ in range(len(numbers) - window + 1)]

# %% rejected: efficiency
def moving_average(numbers: list[float], window: int) -> list[float]:
    """Return the average of every run of `window` numbers."""
    averages = []
    for start in range(len(numbers) - window + 1):
        total = 0
        for offset in range(window):
            total += numbers[start + offset]
        averages.append(total / window)
    return averages

# %% tests
assert moving_average([1, 2, 3, 4], 2) == [1.5, 2.5, 3.5]
assert moving_average([5], 1) == [5]
assert moving_average([1, 2], 3) == []
assert moving_average([3, 3, 3], 3) == [3]

# %% sizes
moving_average([1, 2, 3, 4], 3)
moving_average(list(range(60)), 9)
