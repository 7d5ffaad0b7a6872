# %% phrasings
# Write a function that turns camel case into snake case.
# How do I convert a camelCase name to snake_case in Python?
# Give me a Python function camel_to_snake(name).
# I need code that goes from camel case to snake case.
# Implement camel to snake conversion.
# Write a converter from camelCase to snake_case
# Can you change a name from camel to snake case?

# %% held out

# %% solution
def camel_to_snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    parts = ['_' + letter.lower() if letter.isupper() else letter for letter in name]
    return ''.join(parts).lstrip('_')

# %% naive
def camel_to_snake(s):
    r = ''
    for c in s:
        if c.isupper() and r:
            r += '_'
        r += c.lower()
    return r

# %% rejected: correctness
def camel_to_snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    parts = ['_' + letter.lower() if letter.isupper() else letter for letter in name]
    return ''.join(parts)

# %% rejected: correctness
def camel_to_snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    snake = ''
    for letter in name:
        if letter.isupper() and '_' not in snake:
            snake += '_'
        snake += letter.lower()
    return snake.lstrip('_')

# %% rejected: efficiency
def camel_to_snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    snake = ''
    for end in range(len(name)):
        snake = ''
        for letter in name[:end + 1]:
            if letter.isupper() and snake:
                snake += '_'
            snake += letter.lower()
    return snake

# %% tests
assert camel_to_snake('camelCase') == 'camel_case'
assert camel_to_snake('aLongName') == 'a_long_name'
assert camel_to_snake('HelloWorld') == 'hello_world'
assert camel_to_snake('word') == 'word'
assert camel_to_snake('') == ''

# %% sizes
camel_to_snake('camelCase')
camel_to_snake('camelCase' * 8)
