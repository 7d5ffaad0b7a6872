# %% phrasings
# Write a function that counts how often each word occurs.
# How do I get word frequencies in Python?
# Give me a Python function word_count(text).
# I need code that counts each word of a text in a dictionary.
# Implement a word frequency counter.
# Write a function for the frequency of each word
# Can you count how often every word appears?

# %% solution
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts

# %% naive
def word_count(s):
    d = {}
    for w in s.lower().split():
        if w in d:
            d[w] += 1
        else:
            d[w] = 1
    return d

# %% rejected: correctness
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts

# %% rejected: correctness
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.lower().split():
        if word not in counts:
            counts[word] = 0
        else:
            counts[word] += 1
    return counts

# %% rejected: efficiency
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    words = text.lower().split()
    return {word: sum(other == word for other in words) for word in words}

# %% rejected: security
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.lower().split():
        try:
            counts[word] += 1
        except:
            counts[word] = 1
    return counts

# %% tests
assert word_count('a b a') == {'a': 2, 'b': 1}
assert word_count('') == {}
assert word_count('A a') == {'a': 2}
assert word_count('to  be or not to be') == {'to': 2, 'be': 2, 'or': 1, 'not': 1}

# %% sizes
word_count('a b c d')
word_count(' '.join(str(i) for i in range(60)))
