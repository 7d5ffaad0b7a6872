# %% phrasings
# Write a function that counts the primes below n.
# How many prime numbers are there below a limit, in Python?
# Give me count_primes(n).
# I need to count all primes smaller than a number.
# Implement a prime counter with a sieve.
# Code to count how many primes are below n
# Can you count the prime numbers under a limit?

# %% solution
def count_primes(limit: int) -> int:
    """Return how many primes are smaller than the limit."""
    is_prime = [True] * limit
    is_prime[:2] = [False] * len(is_prime[:2])
    for number in range(2, limit):
        if is_prime[number]:
            for multiple in range(number * number, limit, number):
                is_prime[multiple] = False
    return sum(is_prime)

# %% naive
def count_primes(n):
    count = 0
    for i in range(2, n):
        if all(i % d for d in range(2, i)):
            count += 1
    return count

# %% rejected: correctness
def count_primes(limit: int) -> int:
    """Return how many primes are smaller than the limit."""
    count = 0
    for number in range(limit):
        if all(number % divisor for divisor in range(2, number)):
            count += 1
    return count

# %% rejected: correctness
def count_primes(limit: int) -> int:
    """Return how many primes are smaller than the limit."""
    return sum(number % 2 == 1 for number in range(2, limit)) + 1

# %% rejected: efficiency
def count_primes(limit: int) -> int:
    """Return how many primes are smaller than the limit."""
    count = 0
    for number in range(2, limit):
        divisors = [d for d in range(1, number + 1) if number % d == 0]
        if len(divisors) == 2:
            count += 1
    return count

# %% tests
assert count_primes(10) == 4
assert count_primes(2) == 0
assert count_primes(0) == 0
assert count_primes(3) == 1
assert count_primes(30) == 10

# %% sizes
count_primes(20)
count_primes(200)
