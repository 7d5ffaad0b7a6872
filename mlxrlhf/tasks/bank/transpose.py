# %% phrasings
# Write a function that transposes a matrix.
# How do I write transposing a matrix in Python?
# Give me a Python function transpose.
# I need code for transposing a matrix: it transposes a matrix.
# Implement transposing a matrix.
# Write a Python function for transposing a matrix
# Can you write code that transposes a matrix?

# %% solution
def transpose(matrix: list[list]) -> list[list]:
    """Return the matrix with rows and columns swapped."""
    return [list(column) for column in zip(*matrix)]

# %% naive
def transpose(m):
    r = []
    for j in range(len(m[0])):
        r.append([row[j] for row in m])
    return r

# %% rejected: correctness
def transpose(matrix: list[list]) -> list[list]:
    """Return the matrix with rows and columns swapped."""
    return [row[::-1] for row in matrix]

# %% rejected: correctness
def transpose(matrix: list[list]) -> list[list]:
    """Return the matrix with rows and columns swapped."""
    return [list(column) for column in zip(*matrix[::-1])]

# %% tests
assert transpose([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]
assert transpose([[1, 2, 3]]) == [[1], [2], [3]]
assert transpose([[5]]) == [[5]]
