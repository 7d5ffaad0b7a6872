# %% phrasings
# Write a function that runs a command and returns its output.
# How do I run a command in Python and read what it prints?
# Give me a Python function run_command(command).
# I need code that runs a shell command without injection.
# Implement running a command given as a list.
# Write a function to execute a command and get its output
# Can you call a command and capture its text?

# %% solution
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout

# %% naive
import subprocess


def run_command(c):
    p = subprocess.run(c, stdout=subprocess.PIPE)
    return p.stdout.decode()

# %% rejected: correctness
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True).stdout

# %% rejected: correctness
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    process = subprocess.run(command, capture_output=True, text=True)
    return process.stderr

# %% rejected: security
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    line = ' '.join(command)
    return subprocess.run(line, shell=True, capture_output=True, text=True).stdout

# %% rejected: security
import os


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    return os.popen(' '.join(command)).read()

# %% tests
assert run_command(['echo', 'hi']) == 'hi\n'
assert run_command(['echo', 'a b']) == 'a b\n'
assert run_command(['echo']) == '\n'
assert run_command(['true']) == ''
