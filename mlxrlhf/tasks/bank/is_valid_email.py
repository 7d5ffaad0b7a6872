# %% phrasings
# Write a function that checks whether an email address is valid.
# How do I validate an email address in Python?
# Give me a Python function is_valid_email(address).
# I need code for a simple email check.
# Implement a basic email validator.
# Write a test for a valid email address
# Can you verify that a string looks like an email?

# %% solution
def is_valid_email(address: str) -> bool:
    """Return True if the address looks like name@host.ending."""
    name, _, domain = address.partition('@')
    host, _, ending = domain.rpartition('.')
    if ' ' in address or '@' in domain:
        return False
    return bool(name and host and ending)

# %% naive
def is_valid_email(s):
    if s.count('@') != 1 or ' ' in s:
        return False
    a, b = s.split('@')
    if a == '' or '.' not in b:
        return False
    return b[0] != '.' and b[-1] != '.'

# %% rejected: correctness
def is_valid_email(address: str) -> bool:
    """Return True if the address looks like name@host.ending."""
    return '@' in address and '.' in address

# %% rejected: correctness
def is_valid_email(address: str) -> bool:
    """Return True if the address looks like name@host.ending."""
    name, _, domain = address.partition('@')
    if not name or not domain:
        return False
    if ' ' in address or '@' in domain:
        return False
    return '.' in domain

# %% rejected: security
def is_valid_email(address: str) -> bool:
    """Return True if the address looks like name@host.ending."""
    try:
        name, domain = address.split('@')
        host, ending = domain.rsplit('.', 1)
    except:
        return False
    return bool(name and host and ending) and ' ' not in address

# %% tests
assert is_valid_email('ann@mail.org')
assert is_valid_email('a.b@mail.co.uk')
assert not is_valid_email('ann@mail')
assert not is_valid_email('@mail.org')
assert not is_valid_email('a@b@mail.org')
assert not is_valid_email('a b@mail.org')
assert not is_valid_email('ann@mail.')
assert not is_valid_email('ann@.org')
