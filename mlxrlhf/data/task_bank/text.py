"""Tasks on strings, parsing and the system."""

from mlxrlhf.data.tasks import Task

TASKS = (
    Task(
        name="reverse_string",
        phrasings=(
            "Write a function that reverses a string.",
            "How do I write reverse string in Python?",
            "Give me a Python function reverse_string.",
            "I need code for reverse string: it reverses a string.",
            "Implement reverse string.",
            "Write a Python function for reverse string",
            "Can you write code that reverses a string?",
        ),
        solution='''
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    return text[::-1]
''',
        naive='''
def reverse_string(s):
    r = ''
    for c in s:
        r = c + r
    return r
''',
        tests=(
            "assert reverse_string('abc') == 'cba'",
            "assert reverse_string('') == ''",
            "assert reverse_string('ab') == 'ba'",
        ),
        rejected={
            "correctness": (
                '''
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    return text[::-2]
''',
                '''
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    characters = list(text)
    characters.sort()
    return ''.join(characters)
''',
            ),
            "efficiency": (
                '''
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    characters = []
    for position in range(len(text)):
        characters.insert(0, text[position])
    return ''.join(characters)
''',
            ),
            "security": (
                '''
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    try:
        return eval(repr(text[::-1]))
    except:
        return ''
''',
            ),
        },
        sizes=("reverse_string('abcd')", "reverse_string('abcd' * 20)"),
    ),
    Task(
        name="is_palindrome",
        phrasings=(
            "Write a function that checks whether a text is a palindrome.",
            "How do I write a palindrome check in Python?",
            "Give me a Python function is_palindrome.",
            "I need code for a palindrome check: it checks whether a text is a palindrome.",
            "Implement a palindrome check.",
            "Write a Python function for a palindrome check",
            "Can you write code that checks whether a text is a palindrome?",
        ),
        solution='''
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    letters = [c for c in text.lower() if c.isalnum()]
    return letters == letters[::-1]
''',
        naive='''
def is_palindrome(s):
    s = [c for c in s.lower() if c.isalnum()]
    for i in range(len(s)):
        if s[i] != s[len(s) - 1 - i]:
            return False
    return True
''',
        tests=(
            "assert is_palindrome('Anna')",
            "assert is_palindrome('A man, a plan, a canal: Panama')",
            "assert not is_palindrome('abc')",
            "assert is_palindrome('')",
        ),
        rejected={
            "correctness": (
                '''
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    return text == text[::-1]
''',
                '''
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    letters = [c for c in text.lower() if c.isalnum()]
    return letters[0] == letters[-1] if letters else False
''',
            ),
        },
    ),
    Task(
        name="count_vowels",
        phrasings=(
            "Write a function that counts the vowels in a text.",
            "How do I write counting vowels in Python?",
            "Give me a Python function count_vowels.",
            "I need code for counting vowels: it counts the vowels in a text.",
            "Implement counting vowels.",
            "Write a Python function for counting vowels",
            "Can you write code that counts the vowels in a text?",
        ),
        solution='''
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    return sum(character in 'aeiou' for character in text.lower())
''',
        naive='''
def count_vowels(s):
    n = 0
    for c in s:
        if c in 'aeiouAEIOU':
            n += 1
    return n
''',
        tests=(
            "assert count_vowels('hello') == 2",
            "assert count_vowels('AEIOU') == 5",
            "assert count_vowels('xyz') == 0",
            "assert count_vowels('banana') == 3",
        ),
        rejected={
            "correctness": (
                '''
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    return sum(character in 'aeiou' for character in text)
''',
                '''
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    vowels = {character for character in text.lower() if character in 'aeiou'}
    return len(vowels)
''',
            ),
        },
    ),
    Task(
        name="word_count",
        phrasings=(
            "Write a function that counts how often each word occurs.",
            "How do I write word counts in Python?",
            "Give me a Python function word_count.",
            "I need code for word counts: it counts how often each word occurs.",
            "Implement word counts.",
            "Write a Python function for word counts",
            "Can you write code that counts how often each word occurs?",
        ),
        solution='''
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts
''',
        naive='''
def word_count(s):
    d = {}
    for w in s.lower().split():
        if w in d:
            d[w] += 1
        else:
            d[w] = 1
    return d
''',
        tests=(
            "assert word_count('a b a') == {'a': 2, 'b': 1}",
            "assert word_count('') == {}",
            "assert word_count('A a') == {'a': 2}",
        ),
        rejected={
            "correctness": (
                '''
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    return {word: 1 for word in text.lower().split()}
''',
                '''
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts
''',
            ),
            "efficiency": (
                '''
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    words = text.lower().split()
    return {word: sum(other == word for other in words) for word in words}
''',
            ),
        },
        sizes=("word_count('a b c d')", "word_count(' '.join(str(i) for i in range(60)))"),
    ),
    Task(
        name="is_anagram",
        phrasings=(
            "Write a function that checks whether two words are anagrams.",
            "How do I write an anagram check in Python?",
            "Give me a Python function is_anagram.",
            "I need code for an anagram check: it checks whether two words are anagrams.",
            "Implement an anagram check.",
            "Write a Python function for an anagram check",
            "Can you write code that checks whether two words are anagrams?",
        ),
        solution='''
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    return sorted(first.lower()) == sorted(second.lower())
''',
        naive='''
def is_anagram(a, b):
    a = a.lower()
    b = b.lower()
    for c in a + b:
        if a.count(c) != b.count(c):
            return False
    return True
''',
        tests=(
            "assert is_anagram('listen', 'silent')",
            "assert not is_anagram('aab', 'abb')",
            "assert is_anagram('Ab', 'ba')",
            "assert not is_anagram('a', 'ab')",
        ),
        rejected={
            "correctness": (
                '''
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    return set(first.lower()) == set(second.lower())
''',
                '''
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    return len(first) == len(second)
''',
            ),
        },
        held_out=True,
    ),
    Task(
        name="capitalize_words",
        phrasings=(
            "Write a function that capitalizes every word of a text.",
            "How do I write capitalizing words in Python?",
            "Give me a Python function capitalize_words.",
            "I need code for capitalizing words: it capitalizes every word of a text.",
            "Implement capitalizing words.",
            "Write a Python function for capitalizing words",
            "Can you write code that capitalizes every word of a text?",
        ),
        solution='''
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    return ' '.join(word.capitalize() for word in text.split())
''',
        naive='''
def capitalize_words(s):
    r = []
    for w in s.split():
        r.append(w[0].upper() + w[1:].lower())
    return ' '.join(r)
''',
        tests=(
            "assert capitalize_words('hello world') == 'Hello World'",
            "assert capitalize_words('') == ''",
            "assert capitalize_words('aB') == 'Ab'",
        ),
        rejected={
            "correctness": (
                '''
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    return text.capitalize()
''',
                '''
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    return ' '.join(word.upper() for word in text.split())
''',
            ),
        },
    ),
    Task(
        name="longest_word",
        phrasings=(
            "Write a function that finds the longest word of a text.",
            "How do I write the longest word in Python?",
            "Give me a Python function longest_word.",
            "I need code for the longest word: it finds the longest word of a text.",
            "Implement the longest word.",
            "Write a Python function for the longest word",
            "Can you write code that finds the longest word of a text?",
        ),
        solution='''
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    return max(text.split(), key=len, default='')
''',
        naive='''
def longest_word(s):
    b = ''
    for w in s.split():
        if len(w) > len(b):
            b = w
    return b
''',
        tests=(
            "assert longest_word('a bbb cc') == 'bbb'",
            "assert longest_word('') == ''",
            "assert longest_word('xy ab') == 'xy'",
        ),
        rejected={
            "correctness": (
                '''
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    return max(text.split(), default='')
''',
                '''
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    words = sorted(text.split(), key=len)
    return words[0] if words else ''
''',
            ),
        },
    ),
    Task(
        name="remove_vowels",
        phrasings=(
            "Write a function that removes the vowels from a text.",
            "How do I write removing vowels in Python?",
            "Give me a Python function remove_vowels.",
            "I need code for removing vowels: it removes the vowels from a text.",
            "Implement removing vowels.",
            "Write a Python function for removing vowels",
            "Can you write code that removes the vowels from a text?",
        ),
        solution='''
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(c for c in text if c.lower() not in 'aeiou')
''',
        naive='''
def remove_vowels(s):
    r = ''
    for c in s:
        if c not in 'aeiouAEIOU':
            r += c
    return r
''',
        tests=(
            "assert remove_vowels('hello') == 'hll'",
            "assert remove_vowels('AEx') == 'x'",
            "assert remove_vowels('') == ''",
        ),
        rejected={
            "correctness": (
                '''
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(c for c in text if c not in 'aeiou')
''',
                '''
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(c for c in text if c.lower() in 'aeiou')
''',
            ),
        },
    ),
    Task(
        name="caesar_cipher",
        phrasings=(
            "Write a function that shifts letters by a Caesar cipher.",
            "How do I write a Caesar cipher in Python?",
            "Give me a Python function caesar_cipher.",
            "I need code for a Caesar cipher: it shifts letters by a Caesar cipher.",
            "Implement a Caesar cipher.",
            "Write a Python function for a Caesar cipher",
            "Can you write code that shifts letters by a Caesar cipher?",
        ),
        solution='''
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    shifted = ''
    for character in text:
        if 'a' <= character <= 'z':
            character = chr((ord(character) - 97 + shift) % 26 + 97)
        shifted += character
    return shifted
''',
        naive='''
def caesar_cipher(s, k):
    r = ''
    for c in s:
        if c.islower():
            r += chr((ord(c) - 97 + k) % 26 + 97)
        else:
            r += c
    return r
''',
        tests=(
            "assert caesar_cipher('abc', 1) == 'bcd'",
            "assert caesar_cipher('xyz', 3) == 'abc'",
            "assert caesar_cipher('a b', 0) == 'a b'",
        ),
        rejected={
            "correctness": (
                '''
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    return ''.join(chr(ord(character) + shift) for character in text)
''',
            ),
        },
    ),
    Task(
        name="parse_list",
        phrasings=(
            "Write a function that parses a list literal from text.",
            "How do I write parsing a list literal in Python?",
            "Give me a Python function parse_list.",
            "I need code for parsing a list literal: it parses a list literal from text.",
            "Implement parsing a list literal.",
            "Write a Python function for parsing a list literal",
            "Can you write code that parses a list literal from text?",
        ),
        solution='''
import ast


def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    return ast.literal_eval(text)
''',
        naive='''
import json


def parse_list(s):
    return json.loads(s)
''',
        tests=(
            "assert parse_list('[1, 2]') == [1, 2]",
            "assert parse_list('[]') == []",
            "assert parse_list('[\"a\"]') == ['a']",
        ),
        rejected={
            "correctness": (
                '''
def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    return text.strip('[]').split(',')
''',
            ),
            "security": (
                '''
def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    return eval(text)
''',
                '''
def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    scope: dict = {}
    exec('value = ' + text, scope)
    return scope['value']
''',
            ),
        },
    ),
    Task(
        name="read_json",
        phrasings=(
            "Write a function that reads a value from JSON text.",
            "How do I write reading JSON in Python?",
            "Give me a Python function read_json.",
            "I need code for reading JSON: it reads a value from JSON text.",
            "Implement reading JSON.",
            "Write a Python function for reading JSON",
            "Can you write code that reads a value from JSON text?",
        ),
        solution='''
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    try:
        return json.loads(text)
    except ValueError:
        return {}
''',
        naive='''
import json


def read_json(s):
    try:
        return json.loads(s)
    except ValueError:
        return {}
''',
        tests=(
            "assert read_json('{\"a\": 1}') == {'a': 1}",
            "assert read_json('nope') == {}",
            "assert read_json('{}') == {}",
        ),
        rejected={
            "correctness": (
                '''
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    return json.loads(text)
''',
            ),
            "security": (
                '''
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    try:
        return json.loads(text)
    except:
        return {}
''',
                '''
def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    try:
        return eval(text)
    except Exception:
        return {}
''',
            ),
        },
    ),
    Task(
        name="hash_password",
        phrasings=(
            "Write a function that hashes a password with a salt.",
            "How do I write hashing a password in Python?",
            "Give me a Python function hash_password.",
            "I need code for hashing a password: it hashes a password with a salt.",
            "Implement hashing a password.",
            "Write a Python function for hashing a password",
            "Can you write code that hashes a password with a salt?",
        ),
        solution='''
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    key = hashlib.scrypt(password.encode(), salt=salt, n=1024, r=8, p=1)
    return key.hex()
''',
        naive='''
import hashlib


def hash_password(p, s):
    return hashlib.pbkdf2_hmac('sha256', p.encode(), s, 1000).hex()
''',
        tests=(
            "assert hash_password('a', b's') == hash_password('a', b's')",
            "assert hash_password('a', b's') != hash_password('b', b's')",
            "assert hash_password('a', b's') != hash_password('a', b't')",
        ),
        rejected={
            "correctness": (
                '''
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    return hashlib.sha256(password.encode()).hexdigest()
''',
            ),
            "security": (
                '''
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    return hashlib.md5(salt + password.encode()).hexdigest()
''',
                '''
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    return hashlib.sha1(salt + password.encode()).hexdigest()
''',
            ),
        },
        held_out=True,
    ),
    Task(
        name="run_command",
        phrasings=(
            "Write a function that runs a command and returns its output.",
            "How do I write running a command in Python?",
            "Give me a Python function run_command.",
            "I need code for running a command: it runs a command and returns its output.",
            "Implement running a command.",
            "Write a Python function for running a command",
            "Can you write code that runs a command and returns its output?",
        ),
        solution='''
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout
''',
        naive='''
import subprocess


def run_command(command):
    return subprocess.check_output(command).decode()
''',
        tests=(
            "assert run_command(['echo', 'hi']) == 'hi\\n'",
            "assert run_command(['echo', 'a b']) == 'a b\\n'",
        ),
        rejected={
            "correctness": (
                '''
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    return str(subprocess.run(command, capture_output=True).returncode)
''',
            ),
            "security": (
                '''
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    line = ' '.join(command)
    return subprocess.run(line, shell=True, capture_output=True, text=True).stdout
''',
                '''
import os


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    return os.popen(' '.join(command)).read()
''',
            ),
        },
    ),
)
