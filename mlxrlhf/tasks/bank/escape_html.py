# %% phrasings
# Write a function that escapes HTML in a text.
# How do I escape HTML characters in Python?
# Give me a Python function escape_html(text).
# I need code that makes text safe to put into HTML.
# Implement HTML escaping.
# Write an HTML escaper for user input
# Can you escape a string for an HTML page?

# %% solution
import html


def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    return html.escape(text)

# %% naive
def escape_html(s):
    s = s.replace('&', '&amp;')
    s = s.replace('<', '&lt;').replace('>', '&gt;')
    s = s.replace('"', '&quot;')
    return s.replace("'", '&#x27;')

# %% rejected: correctness
def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    return text.replace('<', '&lt;').replace('>', '&gt;')

# %% rejected: correctness
def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    escaped = text.replace('<', '&lt;').replace('>', '&gt;')
    escaped = escaped.replace('"', '&quot;').replace("'", '&#x27;')
    return escaped.replace('&', '&amp;')

# %% rejected: efficiency
def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    codes = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#x27;'}
    escaped = ''
    for character in text:
        escaped += codes.get(character, character)
    return escaped

# %% rejected: security
def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    codes = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#x27;'}
    escaped = ''
    for character in text:
        try:
            escaped += codes[character]
        except:
            escaped += character
    return escaped

# %% tests
assert escape_html('<b>') == '&lt;b&gt;'
assert escape_html('a & b') == 'a &amp; b'
assert escape_html('say "hi"') == 'say &quot;hi&quot;'
assert escape_html("it's") == 'it&#x27;s'
assert escape_html('') == ''

# %% sizes
escape_html('<b>hello</b>')
escape_html('<b>hello</b>' * 20)
