# %% phrasings
# Write a function that compresses repeated spaces into one.
# How do I collapse extra spaces in Python?
# Give me a Python function compress_spaces(text).
# I need code that removes extra spaces between words.
# Implement compressing spaces to a single space.
# Write a function to squeeze multiple spaces
# Can you clean up the spaces of a text?

# %% held out

# %% solution
def compress_spaces(text: str) -> str:
    """Return the words separated by single spaces."""
    return ' '.join(text.split())

# %% naive
def compress_spaces(s):
    s = s.strip()
    while '  ' in s:
        s = s.replace('  ', ' ')
    return s

# %% rejected: correctness
def compress_spaces(text: str) -> str:
    """Return the words separated by single spaces."""
    return text.strip().replace('  ', ' ')

# %% rejected: correctness
def compress_spaces(text: str) -> str:
    """Return the words separated by single spaces."""
    words = text.split(' ')
    return ' '.join(word.strip() for word in words)

# %% rejected: efficiency
def compress_spaces(text: str) -> str:
    """Return the words separated by single spaces."""
    compressed = ''
    for character in text.strip():
        if character != ' ' or not compressed.endswith(' '):
            compressed += character
    return compressed

# %% tests
assert compress_spaces('a  b') == 'a b'
assert compress_spaces('a     b   c') == 'a b c'
assert compress_spaces('  a ') == 'a'
assert compress_spaces('') == ''
assert compress_spaces('a b') == 'a b'

# %% sizes
compress_spaces('a  b')
compress_spaces('a  b' * 25)
