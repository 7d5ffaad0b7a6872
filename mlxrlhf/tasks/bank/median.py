# %% phrasings
# Write a function that returns the median of a list.
# How do I find the middle value of some numbers?
# Give me median(numbers) in Python.
# I need the median of a list of numbers.
# Implement the median for odd and even lengths.
# Code to compute a median
# Can you find the median of unsorted values?

# %% held out

# %% solution
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2

# %% naive
def median(l):
    l = sorted(l)
    n = len(l)
    if n % 2 == 1:
        return l[n // 2]
    return (l[n // 2 - 1] + l[n // 2]) / 2

# %% rejected: correctness
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    return numbers[len(numbers) // 2]

# %% rejected: correctness
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    return sorted(numbers)[len(numbers) // 2]

# %% rejected: efficiency
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    ordered = []
    for number in numbers:
        place = 0
        while place < len(ordered) and ordered[place] < number:
            place += 1
        ordered.insert(place, number)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2

# %% rejected: security
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    ordered = eval(f"sorted({numbers})")
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2

# %% tests
assert median([3, 1, 2]) == 2
assert median([4, 1, 3, 2]) == 2.5
assert median([7]) == 7
assert median([1, 1, 5, 9]) == 3

# %% sizes
median([3, 1, 2])
median(list(range(60)))
