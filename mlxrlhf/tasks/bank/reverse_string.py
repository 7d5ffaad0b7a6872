# %% phrasings
# Write a function that reverses a string.
# How do I reverse a string in Python?
# Give me a Python function reverse_string(text).
# I need code that returns a string in reverse order.
# Implement reversing the characters of a string.
# Write code that gives back a string in reverse
# Can you reverse the letters of a string for me?

# %% solution
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    return text[::-1]

# %% naive
def reverse_string(s):
    r = ''
    for c in s:
        r = c + r
    return r

# %% rejected: correctness
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    words = text.split()
    return ' '.join(reversed(words))

# %% rejected: correctness
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    return ''.join(sorted(text, reverse=True))

# %% rejected: efficiency
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    characters = []
    for position in range(len(text)):
        characters.insert(0, text[position])
    return ''.join(characters)

# %% rejected: security
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    return eval(f'{text!r}[::-1]')

# %% tests
assert reverse_string('abc') == 'cba'
assert reverse_string('') == ''
assert reverse_string('hello') == 'olleh'
assert reverse_string('a b') == 'b a'
assert reverse_string('Up down') == 'nwod pU'

# %% sizes
reverse_string('abcd')
reverse_string('abcd' * 20)
