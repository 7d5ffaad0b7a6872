# %% phrasings
# Write a function that returns the prime factors of a number.
# How do I factor an integer into primes?
# Give me prime_factors(n) in Python.
# I need the list of prime factors of n.
# Implement prime factorization.
# Code to split a number into its prime factors
# Can you factorize an integer for me?

# %% solution
def prime_factors(number: int) -> list[int]:
    """Return the prime factors of the number in ascending order."""
    factors = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors

# %% naive
def prime_factors(n):
    f = []
    d = 2
    while n > 1:
        if n % d == 0:
            f.append(d)
            n //= d
        else:
            d += 1
    return f

# %% rejected: correctness
def prime_factors(number: int) -> list[int]:
    """Return the prime factors of the number in ascending order."""
    return [divisor for divisor in range(2, number + 1) if number % divisor == 0]

# %% rejected: correctness
def prime_factors(number: int) -> list[int]:
    """Return the prime factors of the number in ascending order."""
    factors = []
    for divisor in range(2, number):
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
    return factors

# %% rejected: security
def prime_factors(number: int) -> list[int]:
    """Return the prime factors of the number in ascending order."""
    factors = []
    divisor = 2
    while number > 1:
        try:
            assert number % divisor == 0
            factors.append(divisor)
            number //= divisor
        except:
            divisor += 1
    return factors

# %% tests
assert prime_factors(12) == [2, 2, 3]
assert prime_factors(1) == []
assert prime_factors(13) == [13]
assert prime_factors(50) == [2, 5, 5]
