# %% phrasings
# Write a function that hashes a password with a salt.
# How do I hash a password in Python?
# Give me a Python function hash_password(password, salt).
# I need code to store a password as a salted hash.
# Implement secure password hashing.
# Write a salted password hash
# Can you hash a user's password safely?

# %% held out

# %% solution
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    key = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)
    return key.hex()

# %% naive
import hashlib


def hash_password(p, s):
    return hashlib.pbkdf2_hmac('sha256', p.encode(), s, 100000).hex()

# %% rejected: correctness
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    return hashlib.sha256(password.encode()).hexdigest()

# %% rejected: correctness
import hashlib
import secrets


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    salt = secrets.token_bytes(16)
    key = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)
    return key.hex()

# %% rejected: security
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    return hashlib.md5(salt + password.encode()).hexdigest()

# %% rejected: security
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    return hashlib.sha1(salt + password.encode()).hexdigest()

# %% tests
assert hash_password('a', b's') == hash_password('a', b's')
assert hash_password('a', b's') != hash_password('b', b's')
assert hash_password('a', b's') != hash_password('a', b't')
assert 'secret' not in hash_password('secret', b's')
assert isinstance(hash_password('', b's'), str)
