# %% phrasings
# Write a function that checks whether a number is prime.
# How do I test if an integer is prime in Python?
# Give me a Python function is_prime(n).
# I need code that tells if n is a prime number.
# Implement a primality check for a whole number.
# Write a function to check if a number is prime
# Can you write a prime number test?

# %% solution
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    if n < 2:
        return False
    divisor = 2
    while divisor * divisor <= n:
        if n % divisor == 0:
            return False
        divisor += 1
    return True

# %% naive
def is_prime(n):
    if n < 2:
        return False
    for i in range(2, n):
        if n % i == 0:
            return False
    return True

# %% rejected: correctness
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    for divisor in range(2, n):
        if n % divisor == 0:
            return False
    return True

# %% rejected: correctness
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    if n < 2:
        return False
    return n == 2 or n % 2 == 1

# %% rejected: efficiency
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return divisors == [1, n] and n > 1

# %% rejected: security
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    try:
        return n > 1 and all(eval(f"{n} % {d}") for d in range(2, n))
    except:
        return False

# %% tests
assert is_prime(2)
assert is_prime(97)
assert not is_prime(1)
assert not is_prime(0)
assert not is_prime(49)
assert not is_prime(-7)

# %% sizes
is_prime(101)
is_prime(1009)
