# %% phrasings
# Write a function that checks whether brackets are balanced.
# How do I test for balanced brackets in Python?
# Give me a Python function balanced_brackets(text).
# I need code that tells if all brackets are closed in order.
# Implement a balanced brackets check.
# Write a bracket matcher for (), [] and {} brackets
# Can you check that the brackets of a text match?

# %% solution
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    pairs = {')': '(', ']': '[', '}': '{'}
    opened: list[str] = []
    for character in text:
        if character in '([{':
            opened.append(character)
        elif character in pairs and (not opened or opened.pop() != pairs[character]):
            return False
    return not opened

# %% naive
def balanced_brackets(s):
    s = ''.join(c for c in s if c in '()[]{}')
    while '()' in s or '[]' in s or '{}' in s:
        s = s.replace('()', '').replace('[]', '').replace('{}', '')
    return s == ''

# %% rejected: correctness
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    return all(text.count(left) == text.count(right) for left, right in ('()', '[]', '{}'))

# %% rejected: correctness
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    pairs = {')': '(', ']': '[', '}': '{'}
    opened: list[str] = []
    for character in text:
        if character in '([{':
            opened.append(character)
        elif character in pairs and (not opened or opened.pop() != pairs[character]):
            return False
    return True

# %% rejected: efficiency
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    brackets = [character for character in text if character in '()[]{}']
    position = 0
    while position + 1 < len(brackets):
        if brackets[position] + brackets[position + 1] in ('()', '[]', '{}'):
            del brackets[position:position + 2]
            position = 0
        else:
            position += 1
    return not brackets

# %% rejected: security
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    pairs = {')': '(', ']': '[', '}': '{'}
    opened: list[str] = []
    for character in text:
        if character in '([{':
            opened.append(character)
        elif character in pairs:
            try:
                if opened.pop() != pairs[character]:
                    return False
            except:
                return False
    return not opened

# %% tests
assert balanced_brackets('(a[b]{c})')
assert balanced_brackets('')
assert not balanced_brackets('(]')
assert not balanced_brackets('([)]')
assert not balanced_brackets('((')
assert not balanced_brackets(')(')

# %% sizes
balanced_brackets('(' * 8 + ')' * 8)
balanced_brackets('(' * 50 + ')' * 50)
