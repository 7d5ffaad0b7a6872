# %% phrasings
# Write a function that reads an object from JSON text.
# How do I read JSON in Python without failing on bad input?
# Give me a Python function read_json(text).
# I need code that decodes JSON and gives {} when it is invalid.
# Implement reading JSON text.
# Write a JSON reader that returns a dictionary
# Can you decode a JSON string safely?

# %% solution
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    try:
        return json.loads(text)
    except ValueError:
        return {}

# %% naive
import json


def read_json(s):
    try:
        d = json.loads(s)
    except ValueError:
        d = {}
    return d

# %% rejected: correctness
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    return json.loads(text)

# %% rejected: correctness
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    if not text:
        return {}
    try:
        return json.loads(text)
    except KeyError:
        return {}

# %% rejected: security
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    try:
        return json.loads(text)
    except:
        return {}

# %% rejected: security
def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    try:
        return eval(text)
    except Exception:
        return {}

# %% tests
assert read_json('{"a": 1}') == {'a': 1}
assert read_json('nope') == {}
assert read_json('') == {}
assert read_json('{"a": [1, "b"]}') == {'a': [1, 'b']}
