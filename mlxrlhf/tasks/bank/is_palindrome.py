# %% phrasings
# Write a function that checks whether a text is a palindrome.
# How do I test for a palindrome in Python?
# Give me a Python function is_palindrome(text).
# I need code that detects a palindrome, ignoring case and punctuation.
# Implement a palindrome check.
# Is there a simple way to recognise a palindrome?
# Can you write a palindrome test?

# %% solution
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    letters = [character for character in text.lower() if character.isalnum()]
    return letters == letters[::-1]

# %% naive
def is_palindrome(s):
    s = [c for c in s.lower() if c.isalnum()]
    for i in range(len(s)):
        if s[i] != s[len(s) - 1 - i]:
            return False
    return True

# %% rejected: correctness
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    return text == text[::-1]

# %% rejected: correctness
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    letters = [character for character in text.lower() if character.isalnum()]
    if not letters:
        return True
    return letters[0] == letters[-1]

# %% rejected: efficiency
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    letters = [character for character in text.lower() if character.isalnum()]
    for position in range(len(letters)):
        mirrored = [letters[-1 - index] for index in range(len(letters))]
        if letters[position] != mirrored[position]:
            return False
    return True

# %% tests
assert is_palindrome('Anna')
assert is_palindrome('A man, a plan, a canal: Panama')
assert not is_palindrome('abc')
assert not is_palindrome('abca')
assert is_palindrome('')

# %% sizes
is_palindrome('abba')
is_palindrome('abba' * 10)
