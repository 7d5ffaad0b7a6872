# %% phrasings
# Write a function that capitalizes every word of a text.
# How do I capitalize each word in Python?
# Give me a Python function capitalize_words(text).
# I need code to capitalize the first letter of all words.
# Implement capitalizing the words of a sentence.
# Write code to capitalize words
# Can you capitalize every word in a string?

# %% solution
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    return ' '.join(word.capitalize() for word in text.split())

# %% naive
def capitalize_words(s):
    r = []
    for w in s.split():
        r.append(w[0].upper() + w[1:].lower())
    return ' '.join(r)

# %% rejected: correctness
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    return text.title()

# %% rejected: correctness
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    words = text.split()
    if words:
        words[0] = words[0].capitalize()
    return ' '.join(words)

# %% rejected: efficiency
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    result = ''
    for word in text.split():
        for position, character in enumerate(word):
            result += character.lower() if position else character.upper()
        result += ' '
    return result.strip()

# %% tests
assert capitalize_words('hello world') == 'Hello World'
assert capitalize_words('') == ''
assert capitalize_words('aB') == 'Ab'
assert capitalize_words("it's me") == "It's Me"

# %% sizes
capitalize_words('ab cd')
capitalize_words('abcdefgh ' * 20)
