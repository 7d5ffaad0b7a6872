# %% phrasings
# Write a function that removes the vowels from a text.
# How do I remove vowels in Python?
# Give me a Python function remove_vowels(text).
# I need code that deletes all vowels of a string.
# Implement removing vowels.
# Write a function to strip vowels, remove them all
# Can you remove every vowel from a word?

# %% solution
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(character for character in text if character not in 'aeiouAEIOU')

# %% naive
def remove_vowels(s):
    r = ''
    for c in s:
        if c.lower() not in 'aeiou':
            r += c
    return r

# %% rejected: correctness
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(character for character in text if character not in 'aeiou')

# %% rejected: correctness
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(character for character in text.lower() if character not in 'aeiou')

# %% rejected: efficiency
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    position = 0
    while position < len(text):
        if text[position] in 'aeiouAEIOU':
            text = text[:position] + text[position + 1:]
            position = 0
        else:
            position += 1
    return text

# %% tests
assert remove_vowels('hello') == 'hll'
assert remove_vowels('AEx') == 'x'
assert remove_vowels('') == ''
assert remove_vowels('Python') == 'Pythn'
assert remove_vowels('aaa') == ''

# %% sizes
remove_vowels('hello')
remove_vowels('hello' * 30)
