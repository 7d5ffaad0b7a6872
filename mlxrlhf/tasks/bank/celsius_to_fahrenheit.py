# %% phrasings
# Write a function that converts Celsius to Fahrenheit.
# How do I turn Celsius into Fahrenheit?
# Give me celsius_to_fahrenheit(c).
# I need a Celsius to Fahrenheit conversion.
# Implement Celsius to Fahrenheit.
# Write Python code from Celsius to Fahrenheit.
# Convert Celsius degrees to Fahrenheit.

# %% solution
def celsius_to_fahrenheit(celsius: float) -> float:
    """Return a temperature in degrees Fahrenheit."""
    return celsius * 9 / 5 + 32

# %% naive
def celsius_to_fahrenheit(c):
    return c * 1.8 + 32

# %% rejected: correctness
def celsius_to_fahrenheit(celsius: float) -> float:
    """Return a temperature in degrees Fahrenheit."""
    return (celsius + 32) * 9 / 5

# %% tests
assert celsius_to_fahrenheit(0) == 32
assert celsius_to_fahrenheit(100) == 212
assert celsius_to_fahrenheit(-40) == -40
