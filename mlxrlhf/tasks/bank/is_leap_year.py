# %% phrasings
# Write a function that checks for a leap year.
# How do I test if a year is a leap year?
# Give me is_leap_year(year) in Python.
# I need code that tells if a year is a leap year.
# Implement the leap year rule.
# Write a Python leap year function.
# Code for leap years, please.

# %% held out

# %% solution
def is_leap_year(year: int) -> bool:
    """Return True if the year is a leap year."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)

# %% naive
def is_leap_year(y):
    if y % 400 == 0:
        return True
    if y % 100 == 0:
        return False
    return y % 4 == 0

# %% rejected: correctness
def is_leap_year(year: int) -> bool:
    """Return True if the year is a leap year."""
    return year % 4 == 0

# %% rejected: correctness
def is_leap_year(year: int) -> bool:
    """Return True if the year is a leap year."""
    if year % 100 == 0:
        return False
    return year % 4 == 0

# %% tests
assert is_leap_year(2024)
assert not is_leap_year(1900)
assert is_leap_year(2000)
assert not is_leap_year(2023)
