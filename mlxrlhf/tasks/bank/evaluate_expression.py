# %% phrasings
# Write a function that evaluates an arithmetic expression.
# How do I evaluate an expression safely?
# Give me evaluate(expression) for sums.
# I need to evaluate an expression such as 1 + 2 + 3.
# Implement evaluate for an expression of additions.
# Write a safe expression evaluator for sums.
# Code to evaluate an expression with plus signs.

# %% held out

# %% solution
def evaluate(expression: str) -> int:
    """Return the sum of the terms of an expression such as 1 + 2."""
    return sum(int(term) for term in expression.split("+"))

# %% naive
def evaluate(expression):
    total = 0
    for term in expression.split("+"):
        total += int(term)
    return total

# %% rejected: correctness
def evaluate(expression: str) -> int:
    """Return the sum of the terms of an expression such as 1 + 2."""
    return sum(int(term) for term in expression if term.isdigit() and term > "1")

# %% rejected: security
def evaluate(expression: str) -> int:
    """Return the sum of the terms of an expression such as 1 + 2."""
    return eval(expression)

# %% rejected: security
def evaluate(expression: str) -> int:
    """Return the sum of the terms of an expression such as 1 + 2."""
    scope: dict = {}
    exec("result = " + expression, scope)
    return scope["result"]

# %% tests
assert evaluate('1 + 2') == 3
assert evaluate('7') == 7
assert evaluate('1+2+3') == 6
