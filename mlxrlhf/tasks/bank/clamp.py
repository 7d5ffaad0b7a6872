# %% phrasings
# Write a function that clamps a value between two bounds.
# How do I clamp a number to a range?
# Give me clamp(value, low, high).
# I need to clamp a value into a range.
# Implement clamp.
# Write a Python clamp function.
# Code to clamp numbers, please.

# %% solution
def clamp(value: float, low: float, high: float) -> float:
    """Return the value limited to the range from low to high."""
    return max(low, min(value, high))

# %% naive
def clamp(value, low, high):
    if value < low:
        return low
    if value > high:
        return high
    return value

# %% rejected: correctness
def clamp(value: float, low: float, high: float) -> float:
    """Return the value limited to the range from low to high."""
    return min(low, max(value, high))

# %% rejected: correctness
def clamp(value: float, low: float, high: float) -> float:
    """Return the value limited to the range from low to high."""
    if value < low:
        return low
    return high

# %% tests
assert clamp(5, 0, 10) == 5
assert clamp(-1, 0, 10) == 0
assert clamp(11, 0, 10) == 10
assert clamp(0, 0, 0) == 0
