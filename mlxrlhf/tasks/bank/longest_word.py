# %% phrasings
# Write a function that finds the longest word of a text.
# How do I get the longest word in Python?
# Give me a Python function longest_word(text).
# I need code that returns the longest word of a sentence.
# Implement a search for the longest word.
# Which word is the longest? Write a function
# Can you find the longest word in a string?

# %% solution
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    return max(text.split(), key=len, default='')

# %% naive
def longest_word(s):
    b = ''
    for w in s.split():
        if len(w) > len(b):
            b = w
    return b

# %% rejected: correctness
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    return max(text.split(), default='')

# %% rejected: correctness
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    longest = ''
    for word in text.split():
        if len(word) >= len(longest):
            longest = word
    return longest

# %% rejected: efficiency
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    words = text.split()
    for word in words:
        if all(len(word) >= len(other) for other in words):
            return word
    return ''

# %% tests
assert longest_word('a bbb cc') == 'bbb'
assert longest_word('') == ''
assert longest_word('xy ab') == 'xy'
assert longest_word('one') == 'one'
assert longest_word('z yy xxx') == 'xxx'

# %% sizes
longest_word('a b c dd')
longest_word('a ' * 50 + 'dd')
