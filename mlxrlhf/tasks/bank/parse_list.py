# %% phrasings
# Write a function that parses a list literal from text.
# How do I parse a list written as a string in Python?
# Give me a Python function parse_list(text).
# I need code to parse a Python list literal.
# Implement parsing a list from text.
# Write a safe parser for a list literal
# Can you parse a string holding a list?

# %% solution
import ast


def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    return ast.literal_eval(text)

# %% naive
import ast


def parse_list(s):
    r = ast.literal_eval(s)
    return r

# %% rejected: correctness
import json


def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    return json.loads(text)

# %% rejected: correctness
def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    items = text.strip('[]').split(',')
    return [int(item) if item.strip().isdigit() else item.strip() for item in items]

# %% rejected: security
def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    return eval(text)

# %% rejected: security
def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    scope: dict = {}
    exec('value = ' + text, scope)
    return scope['value']

# %% tests
assert parse_list('[1, 2]') == [1, 2]
assert parse_list('[]') == []
assert parse_list("['a', 'b c']") == ['a', 'b c']
assert parse_list('[1, [2, 3]]') == [1, [2, 3]]
assert parse_list('[None, True]') == [None, True]
