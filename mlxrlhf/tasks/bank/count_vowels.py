# %% phrasings
# Write a function that counts the vowels in a text.
# How many vowels does a string have? Show me in Python.
# Give me a Python function count_vowels(text).
# I need code to count vowels in a word.
# Implement counting vowels.
# Write a vowel counter that tells how many vowels there are
# Can you count the vowels of a sentence?

# %% solution
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    return sum(character in 'aeiou' for character in text.lower())

# %% naive
def count_vowels(s):
    n = 0
    for c in s:
        if c in 'aeiouAEIOU':
            n += 1
    return n

# %% rejected: correctness
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    return sum(character in 'aeiou' for character in text)

# %% rejected: correctness
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    vowels = {character for character in text.lower() if character in 'aeiou'}
    return len(vowels)

# %% rejected: efficiency
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    total = 0
    for vowel in 'aeiou':
        for character in text.lower():
            if character == vowel:
                total += 1
    return total

# %% tests
assert count_vowels('hello') == 2
assert count_vowels('AEIOU') == 5
assert count_vowels('xyz') == 0
assert count_vowels('banana') == 3
assert count_vowels('') == 0

# %% sizes
count_vowels('hello')
count_vowels('hello' * 40)
