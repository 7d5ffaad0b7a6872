# %% phrasings
# Write a function that turns snake case into camel case.
# How do I convert a snake_case name to camelCase in Python?
# Give me a Python function snake_to_camel(name).
# I need code that goes from snake case to camel case.
# Implement snake to camel conversion.
# Write a converter from snake_case to camelCase
# Can you change a name from snake to camel case?

# %% solution
def snake_to_camel(name: str) -> str:
    """Return a snake_case name in camelCase."""
    first, *others = name.split('_')
    return first + ''.join(word.capitalize() for word in others)

# %% naive
def snake_to_camel(s):
    p = s.split('_')
    r = p[0]
    for w in p[1:]:
        r += w.capitalize()
    return r

# %% rejected: correctness
def snake_to_camel(name: str) -> str:
    """Return a snake_case name in camelCase."""
    return ''.join(word.capitalize() for word in name.split('_'))

# %% rejected: correctness
def snake_to_camel(name: str) -> str:
    """Return a snake_case name in camelCase."""
    first, *others = name.split('_')
    if not others:
        return first
    return first + others[0].capitalize() + ''.join(others[1:])

# %% rejected: efficiency
def snake_to_camel(name: str) -> str:
    """Return a snake_case name in camelCase."""
    camel = ''
    upper = False
    for character in name:
        if character != '_':
            camel += character.upper() if upper else character
        upper = character == '_'
    return camel

# %% tests
assert snake_to_camel('snake_case') == 'snakeCase'
assert snake_to_camel('a_long_name') == 'aLongName'
assert snake_to_camel('word') == 'word'
assert snake_to_camel('') == ''

# %% sizes
snake_to_camel('snake_case')
snake_to_camel('snake' * 20 + '_' + 'case' * 20)
