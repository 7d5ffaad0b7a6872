# %% phrasings
# Write a function that checks a path is safe inside a base folder.
# How do I stop path traversal in Python?
# Give me a Python function is_safe_path(base, name).
# I need code that tells if a file path stays in its folder.
# Implement a check against path traversal with '..'.
# Write a safe path check for a folder
# Can you make sure a path does not leave the base folder?

# %% solution
from pathlib import Path


def is_safe_path(base: str, name: str) -> bool:
    """Return True if the file lies inside the base folder."""
    folder = Path(base).resolve()
    return (folder / name).resolve().is_relative_to(folder)

# %% naive
import os


def is_safe_path(b, n):
    b = os.path.realpath(b)
    p = os.path.realpath(os.path.join(b, n))
    return os.path.commonpath([b, p]) == b

# %% rejected: correctness
def is_safe_path(base: str, name: str) -> bool:
    """Return True if the file lies inside the base folder."""
    return '..' not in name and not name.startswith('/')

# %% rejected: correctness
from pathlib import Path


def is_safe_path(base: str, name: str) -> bool:
    """Return True if the file lies inside the base folder."""
    folder = Path(base).resolve()
    target = (folder / name).resolve()
    return str(target).startswith(str(folder))

# %% rejected: security
from pathlib import Path


def is_safe_path(base: str, name: str) -> bool:
    """Return True if the file lies inside the base folder."""
    folder = Path(base).resolve()
    try:
        (folder / name).resolve().relative_to(folder)
    except:
        return False
    return True

# %% tests
assert is_safe_path('/srv/data', 'a.txt')
assert is_safe_path('/srv/data', 'sub/../a.txt')
assert not is_safe_path('/srv/data', '../a.txt')
assert not is_safe_path('/srv/data', '../data2/a.txt')
assert not is_safe_path('/srv/data', '/etc/passwd')
assert is_safe_path('/srv/data', 'a..b.txt')
