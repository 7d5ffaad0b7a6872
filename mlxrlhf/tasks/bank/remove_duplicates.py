# %% phrasings
# Write a function that removes duplicates and keeps the order.
# How do I write removing duplicates in Python?
# Give me a Python function remove_duplicates.
# I need code for removing duplicates: it removes duplicates and keeps the order.
# Implement removing duplicates.
# Write a Python function for removing duplicates
# Can you write code that removes duplicates and keeps the order?

# %% solution
def remove_duplicates(items: list) -> list:
    """Return the items without repeats, in order."""
    return list(dict.fromkeys(items))

# %% naive
def remove_duplicates(a):
    r = []
    for x in a:
        if x not in r:
            r.append(x)
    return r

# %% rejected: correctness
def remove_duplicates(items: list) -> list:
    """Return the items without repeats, in order."""
    return sorted(set(items))

# %% rejected: correctness
def remove_duplicates(items: list) -> list:
    """Return the items without repeats, in order."""
    return [item for item in items if items.count(item) == 1]

# %% rejected: efficiency
def remove_duplicates(items: list) -> list:
    """Return the items without repeats, in order."""
    unique = []
    for item in items:
        if not any(item == seen for seen in unique):
            unique.append(item)
    return unique

# %% tests
assert remove_duplicates([3, 1, 3]) == [3, 1]
assert remove_duplicates([]) == []
assert remove_duplicates(['b', 'a', 'b']) == ['b', 'a']

# %% sizes
remove_duplicates([1, 2, 3])
remove_duplicates(list(range(40)))
