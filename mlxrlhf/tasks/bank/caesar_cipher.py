# %% phrasings
# Write a function that shifts letters by a Caesar cipher.
# How do I encrypt text with a Caesar cipher in Python?
# Give me a Python function caesar_cipher(text, shift).
# I need code for a Caesar cipher on lower-case letters.
# Implement the Caesar cipher.
# Write a Caesar shift of the alphabet
# Can you encode a message by a Caesar cipher?

# %% solution
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    shifted = ''
    for character in text:
        if 'a' <= character <= 'z':
            character = chr((ord(character) - 97 + shift) % 26 + 97)
        shifted += character
    return shifted

# %% naive
def caesar_cipher(s, k):
    r = ''
    for c in s:
        if c.islower():
            r += chr((ord(c) - 97 + k) % 26 + 97)
        else:
            r += c
    return r

# %% rejected: correctness
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    return ''.join(chr(ord(character) + shift) for character in text)

# %% rejected: correctness
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    shifted = ''
    for character in text:
        code = (ord(character) - ord('a') + shift) % 26
        shifted += chr(code + ord('a'))
    return shifted

# %% rejected: efficiency
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    for step in range(shift % 26):
        moved = ''
        for character in text:
            if 'a' <= character <= 'z':
                character = chr((ord(character) - 96) % 26 + 97)
            moved += character
        text = moved
    return text

# %% tests
assert caesar_cipher('abc', 1) == 'bcd'
assert caesar_cipher('xyz', 3) == 'abc'
assert caesar_cipher('a b!', 2) == 'c d!'
assert caesar_cipher('abc', -1) == 'zab'
assert caesar_cipher('hello', 26) == 'hello'

# %% sizes
caesar_cipher('ab', 3)
caesar_cipher('abcd' * 10, 25)
