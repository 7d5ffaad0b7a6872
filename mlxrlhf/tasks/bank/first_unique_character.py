# %% phrasings
# Write a function that finds the first unique character.
# How do I find the first unique letter of a string in Python?
# Give me a Python function first_unique_character(text).
# I need code for the first character that is unique in a text.
# Implement a search for the first unique character.
# Which unique character comes first? Write a function
# Can you return the first unique character of a word?

# %% solution
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    counts: dict[str, int] = {}
    for character in text:
        counts[character] = counts.get(character, 0) + 1
    return next((character for character in text if counts[character] == 1), '')

# %% naive
def first_unique_character(s):
    for c in s:
        if s.count(c) == 1:
            return c
    return ''

# %% rejected: correctness
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    for position, character in enumerate(text):
        if character not in text[position + 1:]:
            return character
    return ''

# %% rejected: correctness
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    counts: dict[str, int] = {}
    for character in text:
        counts[character] = counts.get(character, 0) + 1
    return next((character for character in reversed(text) if counts[character] == 1), '')

# %% rejected: efficiency
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    for character in text:
        if sum(other == character for other in text) == 1:
            return character
    return ''

# %% rejected: security
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    counts: dict[str, int] = {}
    for character in text:
        try:
            counts[character] += 1
        except:
            counts[character] = 1
    return next((character for character in text if counts[character] == 1), '')

# %% tests
assert first_unique_character('aab') == 'b'
assert first_unique_character('swiss') == 'w'
assert first_unique_character('aabb') == ''
assert first_unique_character('') == ''
assert first_unique_character('abc') == 'a'

# %% sizes
first_unique_character('aabbccddeef')
first_unique_character('aabbccddee' * 8 + 'f')
