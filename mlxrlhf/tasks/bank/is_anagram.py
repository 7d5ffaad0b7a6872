# %% phrasings
# Write a function that checks whether two words are anagrams.
# How do I test if a word is an anagram of another in Python?
# Give me a Python function is_anagram(first, second).
# I need code that tells whether two strings are anagrams.
# Implement an anagram check.
# Write an anagram test for two words
# Can you check if one word is an anagram of the other?

# %% held out

# %% solution
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    return sorted(first.lower()) == sorted(second.lower())

# %% naive
def is_anagram(a, b):
    a = a.lower()
    b = b.lower()
    for c in a + b:
        if a.count(c) != b.count(c):
            return False
    return True

# %% rejected: correctness
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    return set(first.lower()) == set(second.lower())

# %% rejected: correctness
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    letters = list(second.lower())
    for letter in first.lower():
        if letter not in letters:
            return False
        letters.remove(letter)
    return True

# %% rejected: efficiency
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    letters = list(second.lower())
    for letter in first.lower():
        if letter not in letters:
            return False
        letters.remove(letter)
    return not letters

# %% tests
assert is_anagram('listen', 'silent')
assert not is_anagram('aab', 'abb')
assert is_anagram('Ab', 'ba')
assert not is_anagram('a', 'ab')
assert is_anagram('', '')

# %% sizes
is_anagram('listen', 'silent')
is_anagram('listen' * 20, 'silent' * 20)
