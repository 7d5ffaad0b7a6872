"""Tasks on strings, parsing and the system."""

from mlxrlhf.tasks.task import Task

TASKS = (
    Task(
        name="reverse_string",
        phrasings=(
            "Write a function that reverses a string.",
            "How do I reverse a string in Python?",
            "Give me a Python function reverse_string(text).",
            "I need code that returns a string in reverse order.",
            "Implement reversing the characters of a string.",
            "Write code that gives back a string in reverse",
            "Can you reverse the letters of a string for me?",
        ),
        solution='''
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    return text[::-1]
''',
        naive="""
def reverse_string(s):
    r = ''
    for c in s:
        r = c + r
    return r
""",
        tests=(
            "assert reverse_string('abc') == 'cba'",
            "assert reverse_string('') == ''",
            "assert reverse_string('hello') == 'olleh'",
            "assert reverse_string('a b') == 'b a'",
            "assert reverse_string('Up down') == 'nwod pU'",
        ),
        rejected={
            "correctness": (
                '''
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    words = text.split()
    return ' '.join(reversed(words))
''',
                '''
def reverse_string(text: str) -> str:
    """Return the text with its characters in reverse order."""
    return ''.join(sorted(text, reverse=True))
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
    return eval(f'{text!r}[::-1]')
''',
            ),
        },
        sizes=(
            "reverse_string('abcd')",
            "reverse_string('abcd' * 20)",
        ),
    ),
    Task(
        name="is_palindrome",
        phrasings=(
            "Write a function that checks whether a text is a palindrome.",
            "How do I test for a palindrome in Python?",
            "Give me a Python function is_palindrome(text).",
            "I need code that detects a palindrome, ignoring case and punctuation.",
            "Implement a palindrome check.",
            "Is there a simple way to recognise a palindrome?",
            "Can you write a palindrome test?",
        ),
        solution='''
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    letters = [character for character in text.lower() if character.isalnum()]
    return letters == letters[::-1]
''',
        naive="""
def is_palindrome(s):
    s = [c for c in s.lower() if c.isalnum()]
    for i in range(len(s)):
        if s[i] != s[len(s) - 1 - i]:
            return False
    return True
""",
        tests=(
            "assert is_palindrome('Anna')",
            "assert is_palindrome('A man, a plan, a canal: Panama')",
            "assert not is_palindrome('abc')",
            "assert not is_palindrome('abca')",
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
    letters = [character for character in text.lower() if character.isalnum()]
    if not letters:
        return True
    return letters[0] == letters[-1]
''',
            ),
            "efficiency": (
                '''
def is_palindrome(text: str) -> bool:
    """Return True if the letters read the same both ways."""
    letters = [character for character in text.lower() if character.isalnum()]
    for position in range(len(letters)):
        mirrored = [letters[-1 - index] for index in range(len(letters))]
        if letters[position] != mirrored[position]:
            return False
    return True
''',
            ),
        },
        sizes=(
            "is_palindrome('abba')",
            "is_palindrome('abba' * 10)",
        ),
    ),
    Task(
        name="count_vowels",
        phrasings=(
            "Write a function that counts the vowels in a text.",
            "How many vowels does a string have? Show me in Python.",
            "Give me a Python function count_vowels(text).",
            "I need code to count vowels in a word.",
            "Implement counting vowels.",
            "Write a vowel counter that tells how many vowels there are",
            "Can you count the vowels of a sentence?",
        ),
        solution='''
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    return sum(character in 'aeiou' for character in text.lower())
''',
        naive="""
def count_vowels(s):
    n = 0
    for c in s:
        if c in 'aeiouAEIOU':
            n += 1
    return n
""",
        tests=(
            "assert count_vowels('hello') == 2",
            "assert count_vowels('AEIOU') == 5",
            "assert count_vowels('xyz') == 0",
            "assert count_vowels('banana') == 3",
            "assert count_vowels('') == 0",
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
            "efficiency": (
                '''
def count_vowels(text: str) -> int:
    """Return how many vowels the text has."""
    total = 0
    for vowel in 'aeiou':
        for character in text.lower():
            if character == vowel:
                total += 1
    return total
''',
            ),
        },
        sizes=(
            "count_vowels('hello')",
            "count_vowels('hello' * 40)",
        ),
    ),
    Task(
        name="word_count",
        phrasings=(
            "Write a function that counts how often each word occurs.",
            "How do I get word frequencies in Python?",
            "Give me a Python function word_count(text).",
            "I need code that counts each word of a text in a dictionary.",
            "Implement a word frequency counter.",
            "Write a function for the frequency of each word",
            "Can you count how often every word appears?",
        ),
        solution='''
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts
''',
        naive="""
def word_count(s):
    d = {}
    for w in s.lower().split():
        if w in d:
            d[w] += 1
        else:
            d[w] = 1
    return d
""",
        tests=(
            "assert word_count('a b a') == {'a': 2, 'b': 1}",
            "assert word_count('') == {}",
            "assert word_count('A a') == {'a': 2}",
            "assert word_count('to  be or not to be') == {'to': 2, 'be': 2, 'or': 1, 'not': 1}",
        ),
        rejected={
            "correctness": (
                '''
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts
''',
                '''
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.lower().split():
        if word not in counts:
            counts[word] = 0
        else:
            counts[word] += 1
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
            "security": (
                '''
def word_count(text: str) -> dict[str, int]:
    """Return how often each word of the text occurs."""
    counts: dict[str, int] = {}
    for word in text.lower().split():
        try:
            counts[word] += 1
        except:
            counts[word] = 1
    return counts
''',
            ),
        },
        sizes=(
            "word_count('a b c d')",
            "word_count(' '.join(str(i) for i in range(60)))",
        ),
    ),
    Task(
        name="is_anagram",
        phrasings=(
            "Write a function that checks whether two words are anagrams.",
            "How do I test if a word is an anagram of another in Python?",
            "Give me a Python function is_anagram(first, second).",
            "I need code that tells whether two strings are anagrams.",
            "Implement an anagram check.",
            "Write an anagram test for two words",
            "Can you check if one word is an anagram of the other?",
        ),
        solution='''
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    return sorted(first.lower()) == sorted(second.lower())
''',
        naive="""
def is_anagram(a, b):
    a = a.lower()
    b = b.lower()
    for c in a + b:
        if a.count(c) != b.count(c):
            return False
    return True
""",
        tests=(
            "assert is_anagram('listen', 'silent')",
            "assert not is_anagram('aab', 'abb')",
            "assert is_anagram('Ab', 'ba')",
            "assert not is_anagram('a', 'ab')",
            "assert is_anagram('', '')",
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
    letters = list(second.lower())
    for letter in first.lower():
        if letter not in letters:
            return False
        letters.remove(letter)
    return True
''',
            ),
            "efficiency": (
                '''
def is_anagram(first: str, second: str) -> bool:
    """Return True if both words have the same letters."""
    letters = list(second.lower())
    for letter in first.lower():
        if letter not in letters:
            return False
        letters.remove(letter)
    return not letters
''',
            ),
        },
        sizes=(
            "is_anagram('listen', 'silent')",
            "is_anagram('listen' * 20, 'silent' * 20)",
        ),
        held_out=True,
    ),
    Task(
        name="capitalize_words",
        phrasings=(
            "Write a function that capitalizes every word of a text.",
            "How do I capitalize each word in Python?",
            "Give me a Python function capitalize_words(text).",
            "I need code to capitalize the first letter of all words.",
            "Implement capitalizing the words of a sentence.",
            "Write code to capitalize words",
            "Can you capitalize every word in a string?",
        ),
        solution='''
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    return ' '.join(word.capitalize() for word in text.split())
''',
        naive="""
def capitalize_words(s):
    r = []
    for w in s.split():
        r.append(w[0].upper() + w[1:].lower())
    return ' '.join(r)
""",
        tests=(
            "assert capitalize_words('hello world') == 'Hello World'",
            "assert capitalize_words('') == ''",
            "assert capitalize_words('aB') == 'Ab'",
            'assert capitalize_words("it\'s me") == "It\'s Me"',
        ),
        rejected={
            "correctness": (
                '''
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    return text.title()
''',
                '''
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    words = text.split()
    if words:
        words[0] = words[0].capitalize()
    return ' '.join(words)
''',
            ),
            "efficiency": (
                '''
def capitalize_words(text: str) -> str:
    """Return the text with every word capitalized."""
    result = ''
    for word in text.split():
        for position, character in enumerate(word):
            result += character.lower() if position else character.upper()
        result += ' '
    return result.strip()
''',
            ),
        },
        sizes=(
            "capitalize_words('ab cd')",
            "capitalize_words('abcdefgh ' * 20)",
        ),
    ),
    Task(
        name="longest_word",
        phrasings=(
            "Write a function that finds the longest word of a text.",
            "How do I get the longest word in Python?",
            "Give me a Python function longest_word(text).",
            "I need code that returns the longest word of a sentence.",
            "Implement a search for the longest word.",
            "Which word is the longest? Write a function",
            "Can you find the longest word in a string?",
        ),
        solution='''
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    return max(text.split(), key=len, default='')
''',
        naive="""
def longest_word(s):
    b = ''
    for w in s.split():
        if len(w) > len(b):
            b = w
    return b
""",
        tests=(
            "assert longest_word('a bbb cc') == 'bbb'",
            "assert longest_word('') == ''",
            "assert longest_word('xy ab') == 'xy'",
            "assert longest_word('one') == 'one'",
            "assert longest_word('z yy xxx') == 'xxx'",
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
    longest = ''
    for word in text.split():
        if len(word) >= len(longest):
            longest = word
    return longest
''',
            ),
            "efficiency": (
                '''
def longest_word(text: str) -> str:
    """Return the longest word, the first one on a tie."""
    words = text.split()
    for word in words:
        if all(len(word) >= len(other) for other in words):
            return word
    return ''
''',
            ),
        },
        sizes=(
            "longest_word('a b c dd')",
            "longest_word('a ' * 50 + 'dd')",
        ),
    ),
    Task(
        name="remove_vowels",
        phrasings=(
            "Write a function that removes the vowels from a text.",
            "How do I remove vowels in Python?",
            "Give me a Python function remove_vowels(text).",
            "I need code that deletes all vowels of a string.",
            "Implement removing vowels.",
            "Write a function to strip vowels, remove them all",
            "Can you remove every vowel from a word?",
        ),
        solution='''
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(character for character in text if character not in 'aeiouAEIOU')
''',
        naive="""
def remove_vowels(s):
    r = ''
    for c in s:
        if c.lower() not in 'aeiou':
            r += c
    return r
""",
        tests=(
            "assert remove_vowels('hello') == 'hll'",
            "assert remove_vowels('AEx') == 'x'",
            "assert remove_vowels('') == ''",
            "assert remove_vowels('Python') == 'Pythn'",
            "assert remove_vowels('aaa') == ''",
        ),
        rejected={
            "correctness": (
                '''
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(character for character in text if character not in 'aeiou')
''',
                '''
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    return ''.join(character for character in text.lower() if character not in 'aeiou')
''',
            ),
            "efficiency": (
                '''
def remove_vowels(text: str) -> str:
    """Return the text without its vowels."""
    position = 0
    while position < len(text):
        if text[position] in 'aeiouAEIOU':
            text = text[:position] + text[position + 1:]
            position = 0
        else:
            position += 1
    return text
''',
            ),
        },
        sizes=(
            "remove_vowels('hello')",
            "remove_vowels('hello' * 30)",
        ),
    ),
    Task(
        name="caesar_cipher",
        phrasings=(
            "Write a function that shifts letters by a Caesar cipher.",
            "How do I encrypt text with a Caesar cipher in Python?",
            "Give me a Python function caesar_cipher(text, shift).",
            "I need code for a Caesar cipher on lower-case letters.",
            "Implement the Caesar cipher.",
            "Write a Caesar shift of the alphabet",
            "Can you encode a message by a Caesar cipher?",
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
        naive="""
def caesar_cipher(s, k):
    r = ''
    for c in s:
        if c.islower():
            r += chr((ord(c) - 97 + k) % 26 + 97)
        else:
            r += c
    return r
""",
        tests=(
            "assert caesar_cipher('abc', 1) == 'bcd'",
            "assert caesar_cipher('xyz', 3) == 'abc'",
            "assert caesar_cipher('a b!', 2) == 'c d!'",
            "assert caesar_cipher('abc', -1) == 'zab'",
            "assert caesar_cipher('hello', 26) == 'hello'",
        ),
        rejected={
            "correctness": (
                '''
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    return ''.join(chr(ord(character) + shift) for character in text)
''',
                '''
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    shifted = ''
    for character in text:
        code = (ord(character) - ord('a') + shift) % 26
        shifted += chr(code + ord('a'))
    return shifted
''',
            ),
            "efficiency": (
                '''
def caesar_cipher(text: str, shift: int) -> str:
    """Return lower-case letters shifted round the alphabet."""
    for step in range(shift % 26):
        moved = ''
        for character in text:
            if 'a' <= character <= 'z':
                character = chr((ord(character) - 96) % 26 + 97)
            moved += character
        text = moved
    return text
''',
            ),
        },
        sizes=(
            "caesar_cipher('ab', 3)",
            "caesar_cipher('abcd' * 10, 25)",
        ),
    ),
    Task(
        name="parse_list",
        phrasings=(
            "Write a function that parses a list literal from text.",
            "How do I parse a list written as a string in Python?",
            "Give me a Python function parse_list(text).",
            "I need code to parse a Python list literal.",
            "Implement parsing a list from text.",
            "Write a safe parser for a list literal",
            "Can you parse a string holding a list?",
        ),
        solution='''
import ast


def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    return ast.literal_eval(text)
''',
        naive="""
import ast


def parse_list(s):
    r = ast.literal_eval(s)
    return r
""",
        tests=(
            "assert parse_list('[1, 2]') == [1, 2]",
            "assert parse_list('[]') == []",
            "assert parse_list(\"['a', 'b c']\") == ['a', 'b c']",
            "assert parse_list('[1, [2, 3]]') == [1, [2, 3]]",
            "assert parse_list('[None, True]') == [None, True]",
        ),
        rejected={
            "correctness": (
                '''
import json


def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    return json.loads(text)
''',
                '''
def parse_list(text: str) -> list:
    """Return the list that a Python literal describes."""
    items = text.strip('[]').split(',')
    return [int(item) if item.strip().isdigit() else item.strip() for item in items]
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
            "Write a function that reads an object from JSON text.",
            "How do I read JSON in Python without failing on bad input?",
            "Give me a Python function read_json(text).",
            "I need code that decodes JSON and gives {} when it is invalid.",
            "Implement reading JSON text.",
            "Write a JSON reader that returns a dictionary",
            "Can you decode a JSON string safely?",
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
        naive="""
import json


def read_json(s):
    try:
        d = json.loads(s)
    except ValueError:
        d = {}
    return d
""",
        tests=(
            "assert read_json('{\"a\": 1}') == {'a': 1}",
            "assert read_json('nope') == {}",
            "assert read_json('') == {}",
            "assert read_json('{\"a\": [1, \"b\"]}') == {'a': [1, 'b']}",
        ),
        rejected={
            "correctness": (
                '''
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    return json.loads(text)
''',
                '''
import json


def read_json(text: str) -> dict:
    """Return the object in JSON text, empty when invalid."""
    if not text:
        return {}
    try:
        return json.loads(text)
    except KeyError:
        return {}
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
        name="snake_to_camel",
        phrasings=(
            "Write a function that turns snake case into camel case.",
            "How do I convert a snake_case name to camelCase in Python?",
            "Give me a Python function snake_to_camel(name).",
            "I need code that goes from snake case to camel case.",
            "Implement snake to camel conversion.",
            "Write a converter from snake_case to camelCase",
            "Can you change a name from snake to camel case?",
        ),
        solution='''
def snake_to_camel(name: str) -> str:
    """Return a snake_case name in camelCase."""
    first, *others = name.split('_')
    return first + ''.join(word.capitalize() for word in others)
''',
        naive="""
def snake_to_camel(s):
    p = s.split('_')
    r = p[0]
    for w in p[1:]:
        r += w.capitalize()
    return r
""",
        tests=(
            "assert snake_to_camel('snake_case') == 'snakeCase'",
            "assert snake_to_camel('a_long_name') == 'aLongName'",
            "assert snake_to_camel('word') == 'word'",
            "assert snake_to_camel('') == ''",
        ),
        rejected={
            "correctness": (
                '''
def snake_to_camel(name: str) -> str:
    """Return a snake_case name in camelCase."""
    return ''.join(word.capitalize() for word in name.split('_'))
''',
                '''
def snake_to_camel(name: str) -> str:
    """Return a snake_case name in camelCase."""
    first, *others = name.split('_')
    if not others:
        return first
    return first + others[0].capitalize() + ''.join(others[1:])
''',
            ),
            "efficiency": (
                '''
def snake_to_camel(name: str) -> str:
    """Return a snake_case name in camelCase."""
    camel = ''
    upper = False
    for character in name:
        if character != '_':
            camel += character.upper() if upper else character
        upper = character == '_'
    return camel
''',
            ),
        },
        sizes=(
            "snake_to_camel('snake_case')",
            "snake_to_camel('snake' * 20 + '_' + 'case' * 20)",
        ),
    ),
    Task(
        name="camel_to_snake",
        phrasings=(
            "Write a function that turns camel case into snake case.",
            "How do I convert a camelCase name to snake_case in Python?",
            "Give me a Python function camel_to_snake(name).",
            "I need code that goes from camel case to snake case.",
            "Implement camel to snake conversion.",
            "Write a converter from camelCase to snake_case",
            "Can you change a name from camel to snake case?",
        ),
        solution='''
def camel_to_snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    parts = ['_' + letter.lower() if letter.isupper() else letter for letter in name]
    return ''.join(parts).lstrip('_')
''',
        naive="""
def camel_to_snake(s):
    r = ''
    for c in s:
        if c.isupper() and r:
            r += '_'
        r += c.lower()
    return r
""",
        tests=(
            "assert camel_to_snake('camelCase') == 'camel_case'",
            "assert camel_to_snake('aLongName') == 'a_long_name'",
            "assert camel_to_snake('HelloWorld') == 'hello_world'",
            "assert camel_to_snake('word') == 'word'",
            "assert camel_to_snake('') == ''",
        ),
        rejected={
            "correctness": (
                '''
def camel_to_snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    parts = ['_' + letter.lower() if letter.isupper() else letter for letter in name]
    return ''.join(parts)
''',
                '''
def camel_to_snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    snake = ''
    for letter in name:
        if letter.isupper() and '_' not in snake:
            snake += '_'
        snake += letter.lower()
    return snake.lstrip('_')
''',
            ),
            "efficiency": (
                '''
def camel_to_snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    snake = ''
    for end in range(len(name)):
        snake = ''
        for letter in name[:end + 1]:
            if letter.isupper() and snake:
                snake += '_'
            snake += letter.lower()
    return snake
''',
            ),
        },
        sizes=(
            "camel_to_snake('camelCase')",
            "camel_to_snake('camelCase' * 8)",
        ),
        held_out=True,
    ),
    Task(
        name="run_length_encode",
        phrasings=(
            "Write a function for run-length encoding of a string.",
            "How do I run-length encode text in Python?",
            "Give me a Python function run_length_encode(text).",
            "I need code that does run-length encoding, as 'aab' to 'a2b1'.",
            "Implement run-length encoding.",
            "Write a run-length encoder",
            "Can you encode a string by run lengths?",
        ),
        solution='''
from itertools import groupby


def run_length_encode(text: str) -> str:
    """Return each run as its character and length."""
    runs = [(character, len(list(run))) for character, run in groupby(text)]
    return ''.join(f'{character}{length}' for character, length in runs)
''',
        naive="""
def run_length_encode(s):
    r = ''
    i = 0
    while i < len(s):
        j = i
        while j < len(s) and s[j] == s[i]:
            j += 1
        r += s[i] + str(j - i)
        i = j
    return r
""",
        tests=(
            "assert run_length_encode('aaab') == 'a3b1'",
            "assert run_length_encode('') == ''",
            "assert run_length_encode('abc') == 'a1b1c1'",
            "assert run_length_encode('aabaa') == 'a2b1a2'",
            "assert run_length_encode('x' * 12) == 'x12'",
        ),
        rejected={
            "correctness": (
                '''
def run_length_encode(text: str) -> str:
    """Return each run as its character and length."""
    return ''.join(f'{letter}{text.count(letter)}' for letter in dict.fromkeys(text))
''',
                '''
def run_length_encode(text: str) -> str:
    """Return each run as its character and length."""
    encoded, length = '', 1
    for previous, character in zip(text, text[1:]):
        if character == previous:
            length += 1
        else:
            encoded += f'{previous}{length}'
            length = 1
    return encoded
''',
            ),
            "efficiency": (
                '''
def run_length_encode(text: str) -> str:
    """Return each run as its character and length."""
    encoded = ''
    while text:
        length = 0
        while text[length:length + 1] == text[0]:
            length += 1
        encoded += f'{text[0]}{length}'
        text = text[length:]
    return encoded
''',
            ),
        },
        sizes=(
            "run_length_encode('aaaaaaaabbbbbbbb')",
            "run_length_encode('a' * 90 + 'b' * 90)",
        ),
    ),
    Task(
        name="compress_spaces",
        phrasings=(
            "Write a function that compresses repeated spaces into one.",
            "How do I collapse extra spaces in Python?",
            "Give me a Python function compress_spaces(text).",
            "I need code that removes extra spaces between words.",
            "Implement compressing spaces to a single space.",
            "Write a function to squeeze multiple spaces",
            "Can you clean up the spaces of a text?",
        ),
        solution='''
def compress_spaces(text: str) -> str:
    """Return the words separated by single spaces."""
    return ' '.join(text.split())
''',
        naive="""
def compress_spaces(s):
    s = s.strip()
    while '  ' in s:
        s = s.replace('  ', ' ')
    return s
""",
        tests=(
            "assert compress_spaces('a  b') == 'a b'",
            "assert compress_spaces('a     b   c') == 'a b c'",
            "assert compress_spaces('  a ') == 'a'",
            "assert compress_spaces('') == ''",
            "assert compress_spaces('a b') == 'a b'",
        ),
        rejected={
            "correctness": (
                '''
def compress_spaces(text: str) -> str:
    """Return the words separated by single spaces."""
    return text.strip().replace('  ', ' ')
''',
                '''
def compress_spaces(text: str) -> str:
    """Return the words separated by single spaces."""
    words = text.split(' ')
    return ' '.join(word.strip() for word in words)
''',
            ),
            "efficiency": (
                '''
def compress_spaces(text: str) -> str:
    """Return the words separated by single spaces."""
    compressed = ''
    for character in text.strip():
        if character != ' ' or not compressed.endswith(' '):
            compressed += character
    return compressed
''',
            ),
        },
        sizes=(
            "compress_spaces('a  b')",
            "compress_spaces('a  b' * 25)",
        ),
        held_out=True,
    ),
    Task(
        name="first_unique_character",
        phrasings=(
            "Write a function that finds the first unique character.",
            "How do I find the first unique letter of a string in Python?",
            "Give me a Python function first_unique_character(text).",
            "I need code for the first character that is unique in a text.",
            "Implement a search for the first unique character.",
            "Which unique character comes first? Write a function",
            "Can you return the first unique character of a word?",
        ),
        solution='''
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    counts: dict[str, int] = {}
    for character in text:
        counts[character] = counts.get(character, 0) + 1
    return next((character for character in text if counts[character] == 1), '')
''',
        naive="""
def first_unique_character(s):
    for c in s:
        if s.count(c) == 1:
            return c
    return ''
""",
        tests=(
            "assert first_unique_character('aab') == 'b'",
            "assert first_unique_character('swiss') == 'w'",
            "assert first_unique_character('aabb') == ''",
            "assert first_unique_character('') == ''",
            "assert first_unique_character('abc') == 'a'",
        ),
        rejected={
            "correctness": (
                '''
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    for position, character in enumerate(text):
        if character not in text[position + 1:]:
            return character
    return ''
''',
                '''
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    counts: dict[str, int] = {}
    for character in text:
        counts[character] = counts.get(character, 0) + 1
    return next((character for character in reversed(text) if counts[character] == 1), '')
''',
            ),
            "efficiency": (
                '''
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    for character in text:
        if sum(other == character for other in text) == 1:
            return character
    return ''
''',
            ),
            "security": (
                '''
def first_unique_character(text: str) -> str:
    """Return the first character that occurs once, or ''."""
    counts: dict[str, int] = {}
    for character in text:
        try:
            counts[character] += 1
        except:
            counts[character] = 1
    return next((character for character in text if counts[character] == 1), '')
''',
            ),
        },
        sizes=(
            "first_unique_character('aabbccddeef')",
            "first_unique_character('aabbccddee' * 8 + 'f')",
        ),
    ),
    Task(
        name="is_valid_email",
        phrasings=(
            "Write a function that checks whether an email address is valid.",
            "How do I validate an email address in Python?",
            "Give me a Python function is_valid_email(address).",
            "I need code for a simple email check.",
            "Implement a basic email validator.",
            "Write a test for a valid email address",
            "Can you verify that a string looks like an email?",
        ),
        solution='''
def is_valid_email(address: str) -> bool:
    """Return True if the address looks like name@host.ending."""
    name, _, domain = address.partition('@')
    host, _, ending = domain.rpartition('.')
    if ' ' in address or '@' in domain:
        return False
    return bool(name and host and ending)
''',
        naive="""
def is_valid_email(s):
    if s.count('@') != 1 or ' ' in s:
        return False
    a, b = s.split('@')
    if a == '' or '.' not in b:
        return False
    return b[0] != '.' and b[-1] != '.'
""",
        tests=(
            "assert is_valid_email('ann@mail.org')",
            "assert is_valid_email('a.b@mail.co.uk')",
            "assert not is_valid_email('ann@mail')",
            "assert not is_valid_email('@mail.org')",
            "assert not is_valid_email('a@b@mail.org')",
            "assert not is_valid_email('a b@mail.org')",
            "assert not is_valid_email('ann@mail.')",
            "assert not is_valid_email('ann@.org')",
        ),
        rejected={
            "correctness": (
                '''
def is_valid_email(address: str) -> bool:
    """Return True if the address looks like name@host.ending."""
    return '@' in address and '.' in address
''',
                '''
def is_valid_email(address: str) -> bool:
    """Return True if the address looks like name@host.ending."""
    name, _, domain = address.partition('@')
    if not name or not domain:
        return False
    if ' ' in address or '@' in domain:
        return False
    return '.' in domain
''',
            ),
            "security": (
                '''
def is_valid_email(address: str) -> bool:
    """Return True if the address looks like name@host.ending."""
    try:
        name, domain = address.split('@')
        host, ending = domain.rsplit('.', 1)
    except:
        return False
    return bool(name and host and ending) and ' ' not in address
''',
            ),
        },
    ),
    Task(
        name="is_safe_path",
        phrasings=(
            "Write a function that checks a path is safe inside a base folder.",
            "How do I stop path traversal in Python?",
            "Give me a Python function is_safe_path(base, name).",
            "I need code that tells if a file path stays in its folder.",
            "Implement a check against path traversal with '..'.",
            "Write a safe path check for a folder",
            "Can you make sure a path does not leave the base folder?",
        ),
        solution='''
from pathlib import Path


def is_safe_path(base: str, name: str) -> bool:
    """Return True if the file lies inside the base folder."""
    folder = Path(base).resolve()
    return (folder / name).resolve().is_relative_to(folder)
''',
        naive="""
import os


def is_safe_path(b, n):
    b = os.path.realpath(b)
    p = os.path.realpath(os.path.join(b, n))
    return os.path.commonpath([b, p]) == b
""",
        tests=(
            "assert is_safe_path('/srv/data', 'a.txt')",
            "assert is_safe_path('/srv/data', 'sub/../a.txt')",
            "assert not is_safe_path('/srv/data', '../a.txt')",
            "assert not is_safe_path('/srv/data', '../data2/a.txt')",
            "assert not is_safe_path('/srv/data', '/etc/passwd')",
            "assert is_safe_path('/srv/data', 'a..b.txt')",
        ),
        rejected={
            "correctness": (
                '''
def is_safe_path(base: str, name: str) -> bool:
    """Return True if the file lies inside the base folder."""
    return '..' not in name and not name.startswith('/')
''',
                '''
from pathlib import Path


def is_safe_path(base: str, name: str) -> bool:
    """Return True if the file lies inside the base folder."""
    folder = Path(base).resolve()
    target = (folder / name).resolve()
    return str(target).startswith(str(folder))
''',
            ),
            "security": (
                '''
from pathlib import Path


def is_safe_path(base: str, name: str) -> bool:
    """Return True if the file lies inside the base folder."""
    folder = Path(base).resolve()
    try:
        (folder / name).resolve().relative_to(folder)
    except:
        return False
    return True
''',
            ),
        },
    ),
    Task(
        name="run_command",
        phrasings=(
            "Write a function that runs a command and returns its output.",
            "How do I run a command in Python and read what it prints?",
            "Give me a Python function run_command(command).",
            "I need code that runs a shell command without injection.",
            "Implement running a command given as a list.",
            "Write a function to execute a command and get its output",
            "Can you call a command and capture its text?",
        ),
        solution='''
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout
''',
        naive="""
import subprocess


def run_command(c):
    p = subprocess.run(c, stdout=subprocess.PIPE)
    return p.stdout.decode()
""",
        tests=(
            "assert run_command(['echo', 'hi']) == 'hi\\n'",
            "assert run_command(['echo', 'a b']) == 'a b\\n'",
            "assert run_command(['echo']) == '\\n'",
            "assert run_command(['true']) == ''",
        ),
        rejected={
            "correctness": (
                '''
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True).stdout
''',
                '''
import subprocess


def run_command(command: list[str]) -> str:
    """Return what a command prints."""
    process = subprocess.run(command, capture_output=True, text=True)
    return process.stderr
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
    Task(
        name="hash_password",
        phrasings=(
            "Write a function that hashes a password with a salt.",
            "How do I hash a password in Python?",
            "Give me a Python function hash_password(password, salt).",
            "I need code to store a password as a salted hash.",
            "Implement secure password hashing.",
            "Write a salted password hash",
            "Can you hash a user's password safely?",
        ),
        solution='''
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    key = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)
    return key.hex()
''',
        naive="""
import hashlib


def hash_password(p, s):
    return hashlib.pbkdf2_hmac('sha256', p.encode(), s, 100000).hex()
""",
        tests=(
            "assert hash_password('a', b's') == hash_password('a', b's')",
            "assert hash_password('a', b's') != hash_password('b', b's')",
            "assert hash_password('a', b's') != hash_password('a', b't')",
            "assert 'secret' not in hash_password('secret', b's')",
            "assert isinstance(hash_password('', b's'), str)",
        ),
        rejected={
            "correctness": (
                '''
import hashlib


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    return hashlib.sha256(password.encode()).hexdigest()
''',
                '''
import hashlib
import secrets


def hash_password(password: str, salt: bytes) -> str:
    """Return a slow salted hash of the password."""
    salt = secrets.token_bytes(16)
    key = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)
    return key.hex()
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
        name="escape_html",
        phrasings=(
            "Write a function that escapes HTML in a text.",
            "How do I escape HTML characters in Python?",
            "Give me a Python function escape_html(text).",
            "I need code that makes text safe to put into HTML.",
            "Implement HTML escaping.",
            "Write an HTML escaper for user input",
            "Can you escape a string for an HTML page?",
        ),
        solution='''
import html


def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    return html.escape(text)
''',
        naive="""
def escape_html(s):
    s = s.replace('&', '&amp;')
    s = s.replace('<', '&lt;').replace('>', '&gt;')
    s = s.replace('"', '&quot;')
    return s.replace("'", '&#x27;')
""",
        tests=(
            "assert escape_html('<b>') == '&lt;b&gt;'",
            "assert escape_html('a & b') == 'a &amp; b'",
            "assert escape_html('say \"hi\"') == 'say &quot;hi&quot;'",
            "assert escape_html(\"it's\") == 'it&#x27;s'",
            "assert escape_html('') == ''",
        ),
        rejected={
            "correctness": (
                '''
def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    return text.replace('<', '&lt;').replace('>', '&gt;')
''',
                '''
def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    escaped = text.replace('<', '&lt;').replace('>', '&gt;')
    escaped = escaped.replace('"', '&quot;').replace("'", '&#x27;')
    return escaped.replace('&', '&amp;')
''',
            ),
            "efficiency": (
                '''
def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    codes = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#x27;'}
    escaped = ''
    for character in text:
        escaped += codes.get(character, character)
    return escaped
''',
            ),
            "security": (
                '''
def escape_html(text: str) -> str:
    """Return the text with HTML's special characters escaped."""
    codes = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#x27;'}
    escaped = ''
    for character in text:
        try:
            escaped += codes[character]
        except:
            escaped += character
    return escaped
''',
            ),
        },
        sizes=(
            "escape_html('<b>hello</b>')",
            "escape_html('<b>hello</b>' * 20)",
        ),
    ),
    Task(
        name="balanced_brackets",
        phrasings=(
            "Write a function that checks whether brackets are balanced.",
            "How do I test for balanced brackets in Python?",
            "Give me a Python function balanced_brackets(text).",
            "I need code that tells if all brackets are closed in order.",
            "Implement a balanced brackets check.",
            "Write a bracket matcher for (), [] and {} brackets",
            "Can you check that the brackets of a text match?",
        ),
        solution='''
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    pairs = {')': '(', ']': '[', '}': '{'}
    opened: list[str] = []
    for character in text:
        if character in '([{':
            opened.append(character)
        elif character in pairs and (not opened or opened.pop() != pairs[character]):
            return False
    return not opened
''',
        naive="""
def balanced_brackets(s):
    s = ''.join(c for c in s if c in '()[]{}')
    while '()' in s or '[]' in s or '{}' in s:
        s = s.replace('()', '').replace('[]', '').replace('{}', '')
    return s == ''
""",
        tests=(
            "assert balanced_brackets('(a[b]{c})')",
            "assert balanced_brackets('')",
            "assert not balanced_brackets('(]')",
            "assert not balanced_brackets('([)]')",
            "assert not balanced_brackets('((')",
            "assert not balanced_brackets(')(')",
        ),
        rejected={
            "correctness": (
                '''
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    return all(text.count(left) == text.count(right) for left, right in ('()', '[]', '{}'))
''',
                '''
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    pairs = {')': '(', ']': '[', '}': '{'}
    opened: list[str] = []
    for character in text:
        if character in '([{':
            opened.append(character)
        elif character in pairs and (not opened or opened.pop() != pairs[character]):
            return False
    return True
''',
            ),
            "efficiency": (
                '''
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    brackets = [character for character in text if character in '()[]{}']
    position = 0
    while position + 1 < len(brackets):
        if brackets[position] + brackets[position + 1] in ('()', '[]', '{}'):
            del brackets[position:position + 2]
            position = 0
        else:
            position += 1
    return not brackets
''',
            ),
            "security": (
                '''
def balanced_brackets(text: str) -> bool:
    """Return True if every bracket is closed in order."""
    pairs = {')': '(', ']': '[', '}': '{'}
    opened: list[str] = []
    for character in text:
        if character in '([{':
            opened.append(character)
        elif character in pairs:
            try:
                if opened.pop() != pairs[character]:
                    return False
            except:
                return False
    return not opened
''',
            ),
        },
        sizes=(
            "balanced_brackets('(' * 8 + ')' * 8)",
            "balanced_brackets('(' * 50 + ')' * 50)",
        ),
    ),
)
