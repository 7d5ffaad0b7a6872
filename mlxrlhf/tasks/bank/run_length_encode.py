# %% phrasings
# Write a function for run-length encoding of a string.
# How do I run-length encode text in Python?
# Give me a Python function run_length_encode(text).
# I need code that does run-length encoding, as 'aab' to 'a2b1'.
# Implement run-length encoding.
# Write a run-length encoder
# Can you encode a string by run lengths?

# %% solution
from itertools import groupby


def run_length_encode(text: str) -> str:
    """Return each run as its character and length."""
    runs = [(character, len(list(run))) for character, run in groupby(text)]
    return ''.join(f'{character}{length}' for character, length in runs)

# %% naive
def run_length_encode(s):
    r = ''
    i = 0
    while i < len(s):
        j = i
        while j < len(s) and s[j] == s[i]:
            j += 1
        r += s[i] + str(j - i)
        i = j
    return r

# %% rejected: correctness
def run_length_encode(text: str) -> str:
    """Return each run as its character and length."""
    return ''.join(f'{letter}{text.count(letter)}' for letter in dict.fromkeys(text))

# %% rejected: correctness
def run_length_encode(text: str) -> str:
    """Return each run as its character and length."""
    encoded, length = '', 1
    for previous, character in zip(text, text[1:]):
        if character == previous:
            length += 1
        else:
            encoded += f'{previous}{length}'
            length = 1
    return encoded

# %% rejected: efficiency
def run_length_encode(text: str) -> str:
    """Return each run as its character and length."""
    encoded = ''
    while text:
        length = 0
        while text[length:length + 1] == text[0]:
            length += 1
        encoded += f'{text[0]}{length}'
        text = text[length:]
    return encoded

# %% tests
assert run_length_encode('aaab') == 'a3b1'
assert run_length_encode('') == ''
assert run_length_encode('abc') == 'a1b1c1'
assert run_length_encode('aabaa') == 'a2b1a2'
assert run_length_encode('x' * 12) == 'x12'

# %% sizes
run_length_encode('aaaaaaaabbbbbbbb')
run_length_encode('a' * 90 + 'b' * 90)
