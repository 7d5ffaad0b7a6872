"""Dialogues that call tools: ours, whose tool turns are what the tools really printed, and bfcl-eval's.

    {"kind": "single", "messages": [
        {"role": "user", "content": "What is 17 times 23?"},
        {"role": "assistant", "content": '<tool_call>{"name": "execute_python", "arguments": {...}}</tool_call>'},
        {"role": "tool", "content": "391"},
        {"role": "assistant", "content": "17 times 23 is 391."}]}

Ours are tables of templates below. A template's texts name slots in braces, drawn anew for each dialogue, and the
outputs so far: {x} is the first call's, {x1} to {x3} its first lines, {xv1} to {xv3} what follows their colon, {xe}
the kind of error it names, {xs} what a page of the documentation says first; {y...} the same for the second call.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxrlhf.agent import documentation, tools
from mlxrlhf.errors import UserError
from mlxrlhf.wheels import fetch_wheel

KINDS = ("none", "single", "chain", "fix")
#: the kinds of twenty dialogues in a row
_MIX = (
    "single",
    "chain",
    "none",
    "fix",
    "single",
    "single",
    "chain",
    "single",
    "fix",
    "none",
    "single",
    "fix",
    "single",
    "chain",
    "single",
    "none",
    "single",
    "fix",
    "chain",
    "single",
)


@dataclass(frozen=True)
class Template:
    """One row: ways to ask, the calls in order (tool, arguments), ways to answer."""

    questions: tuple[str, ...]
    steps: tuple[tuple[str, dict[str, str]], ...]
    answers: tuple[str, ...]


def _python(code: str) -> tuple[str, dict[str, str]]:
    return "execute_python", {"code": code}


def _bash(command: str) -> tuple[str, dict[str, str]]:
    return "execute_bash", {"command": command}


_TEST = ("run_tests", {"code": "{function}", "tests": "{tests}"})
_TEST_WRONG = ("run_tests", {"code": "{wrong}", "tests": "{tests}"})


# --- slots ---------------------------------------------------------------------------------------------------------

_NAMES = (
    "Ada Alan Amir Anna Ben Carla Chen Dana Eli Emma Farid Grace Hugo Ines Ivan Jack Jin Kim Lara Leo Lina Luis "
    "Mara Max Mia Nadia Nina Noah Omar Paul Petra Rosa Sam Sara Tariq Theo Tom Uma Vera Yuki Zoe"
).split()
_WORDS = (
    "apple banana basket bottle branch bridge button camera candle carpet castle cherry circle cloud coffee "
    "copper corner cotton desert dragon engine falcon feather finger flower forest garden ginger guitar hammer "
    "harbor helmet island jacket jungle kettle ladder lemon letter magnet marble meadow mirror monkey mountain "
    "needle orange paper parrot pebble pencil pepper planet pocket potato puzzle rabbit ribbon river rocket "
    "saddle salmon school shadow silver spider spoon square stone summer sunset table temple thunder ticket "
    "tiger tomato tunnel turtle valley velvet violin walnut water window winter yellow"
).split()

#: names, parameters, right and wrong result, sort of arguments, what it does
_FUNCTIONS = (
    (("scale", "multiply", "times"), "x", "x * {a}", "x + {a}", "int", "multiplies x by {a}"),
    (("shift", "add", "raise_by"), "x", "x + {a}", "x - {a}", "int", "adds {a} to x"),
    (("lower", "reduce", "minus"), "x", "x - {a}", "{a} - x", "int", "subtracts {a} from x"),
    (("area", "rectangle"), "w, h", "w * h", "w + h", "ints", "returns the area of a rectangle"),
    (("perimeter", "border"), "w, h", "2 * (w + h)", "w + h", "ints", "returns the perimeter of a rectangle"),
    (("square", "power_two"), "x", "x ** 2", "x * 2", "int", "squares x"),
    (("cube", "power_three"), "x", "x ** 3", "x * 3", "int", "cubes x"),
    (("is_even", "even"), "n", "n % 2 == 0", "n % 2 == 1", "int", "tells whether n is even"),
    (("digits", "count_digits"), "n", "len(str(n))", "len(str(n)) + 1", "int", "counts the digits of n"),
    (("cap", "limit"), "x", "min(x, {a})", "max(x, {a})", "int", "returns x but at most {a}"),
    (("rest", "remainder"), "a, b", "a % b", "a // b", "ints", "returns the remainder of a and b"),
    (("last", "final_item"), "items", "items[-1]", "items[0]", "list", "returns the last item"),
    (("first", "head"), "items", "items[0]", "items[1]", "list", "returns the first item"),
    (("total", "add_all"), "items", "sum(items)", "len(items)", "list", "adds up the items"),
    (("largest", "highest"), "items", "max(items)", "min(items)", "list", "returns the largest item"),
    (("smallest", "lowest"), "items", "min(items)", "max(items)", "list", "returns the smallest item"),
    (
        ("spread", "span"),
        "items",
        "max(items) - min(items)",
        "max(items)",
        "list",
        "returns the largest less the smallest",
    ),
    (("shout", "loud"), "text", "text.upper()", "text.lower()", "word", "makes text upper case"),
    (("backwards", "reverse"), "text", "text[::-1]", "text[1:]", "word", "reverses text"),
    (("initial", "first_letter"), "text", "text[0]", "text[-1]", "word", "returns the first letter"),
    (("ending", "last_two"), "text", "text[-2:]", "text[:2]", "word", "returns the last two letters"),
    (("echo", "twice"), "text", "text + text", "text", "word", "repeats text twice"),
    (("size", "letters"), "text", "len(text)", "len(text) - 1", "word", "counts the letters"),
    (("greet", "hello"), "name", '"Hi " + name', '"Hi" + name', "word", "puts Hi before the name"),
)
#: code that fails, the repair, and what was done
_BUGS = (
    ('print("{w}" + {a})', 'print("{w}" + str({a}))', "turned the number into text"),
    ("{w} = {a}\nprint({w}s + {b})", "{w} = {a}\nprint({w} + {b})", "corrected the name"),
    ("{w} = {list}\nprint({w}[{m}])", "{w} = {list}\nprint({w}[-1])", "took the last item instead"),
    ('ages = {{"{n}": {a}}}\nprint(ages["{o}"])', 'ages = {{"{n}": {a}}}\nprint(ages.get("{o}"))', "used get"),
    ("{w} = []\nprint({a} / len({w}))", "{w} = []\nprint({a} / max(1, len({w})))", "kept the divisor above 0"),
    ('print(int("{a}.{b}"))', 'print(int(float("{a}.{b}")))', "read it as a float first"),
    ("{w} = {list}\n{w}.add({a})\nprint({w})", "{w} = {list}\n{w}.append({a})\nprint({w})", "used append"),
    ("print(math.sqrt({sq}))", "import math\nprint(math.sqrt({sq}))", "imported math"),
    ('print(json.dumps(["{w}", {a}]))', 'import json\nprint(json.dumps(["{w}", {a}]))', "imported json"),
    ("print(statistics.mean({list}))", "import statistics\nprint(statistics.mean({list}))", "imported statistics"),
    ("for i in range({c})\n    print(i * {a})", "for i in range({c}):\n    print(i * {a})", "added the colon"),
    ("if {m} > {a}\n    print('{w}')", "if {m} > {a}:\n    print('{w}')", "added the colon"),
    ('print("{w} {v}"', 'print("{w} {v}")', "closed the bracket"),
    ("print({list}[0]", "print({list}[0])", "closed the bracket"),
    ('print("{w}.upper())', 'print("{w}".upper())', "closed the quotes"),
    ("print(len({m}))", "print(len(str({m})))", "turned the number into text"),
    ('print("{w}".reverse())', 'print("{w}"[::-1])', "used a slice"),
    ("def {w}():\nreturn {m}\nprint({w}())", "def {w}():\n    return {m}\nprint({w}())", "indented the body"),
    ("print(sum('{w}'))", "print(len('{w}'))", "used len"),
    ("a, b = {list}\nprint(a)", "a, *b = {list}\nprint(a)", "gathered the rest with a star"),
)
_RISKS = (
    "def {w}({p}):\n    return eval({p})",
    "def {w}({p}):\n    exec({p})",
    "import os\ndef {w}({p}):\n    os.system({p})",
    "import pickle\ndef {w}({p}):\n    return pickle.loads({p})",
    "import hashlib\ndef {w}({p}):\n    return hashlib.md5({p})",
    "import subprocess\ndef {w}({p}):\n    subprocess.run({p}, shell=True)",
    'password = "{v}{a}"\ndef {w}({p}):\n    return {p} == password',
)
_CLEAN = (
    "def {w}({p}):\n    if {p} > {a}:\n        return {b}\n    return {p}",
    "def {w}({p}):\n    for i in {p}:\n        if i == {a}:\n            return i",
    "def {w}({p}):\n    return {p} * {a} + {b}",
    "def {w}({p}):\n    while {p} > {a} and {p} < {m}:\n        {p} += 1\n    return {p}",
    "def {w}({p}):\n    return [i for i in {p} if i > {a}]",
    'def {w}({p}):\n    """Add {a}."""\n    return {p} + {a}',
    'def {w}({p}):\n    """Tell {a} from the rest."""\n    return {p} == {a} or {p} == {b}',
)
_BROKEN = (
    "def {w}({p})\n    return {p} + {a}",
    "def {w}({p}):\nreturn {p} * {a}",
    "def {w}({p}:\n    return {p}",
    "{w} = [{a}, {b}\nprint({w})",
    "{w} = {a} +\nprint({w})",
    "if {w} = {a}:\n    print({b})",
    'print("{w})',
)
#: page of the documentation, and a use of it
_USES = (
    ("math.gcd", "import math\nprint(math.gcd({m}, {a}))", "{m} and {a}"),
    ("math.lcm", "import math\nprint(math.lcm({a}, {b}))", "{a} and {b}"),
    ("math.isqrt", "import math\nprint(math.isqrt({m}))", "{m}"),
    ("math.factorial", "import math\nprint(math.factorial({c}))", "{c}"),
    ("str.upper", 'print("{w}".upper())', "{w}"),
    ("str.title", 'print("{w} {v}".title())', "{w} {v}"),
    ("str.swapcase", 'print("{n}".swapcase())', "{n}"),
    ("str.center", 'print("{w}".center({a}, "*"))', "{w} with width {a} and stars"),
    ("str.zfill", 'print("{a}".zfill({c}))', "{a} with width {c}"),
    ("sorted", "print(sorted({list}))", "{list}"),
    ("len", 'print(len("{w}{v}"))', "{w}{v}"),
    ("max", "print(max({list}))", "{list}"),
    ("sum", "print(sum({list}))", "{list}"),
    ("bin", "print(bin({m}))", "{m}"),
    ("hex", "print(hex({m}))", "{m}"),
    ("abs", "print(abs(-{m}))", "-{m}"),
    ("divmod", "print(divmod({m}, {a}))", "{m} and {a}"),
    ("chr", "print(chr({ascii}))", "{ascii}"),
    ("ord", 'print(ord("{l}"))', "{l}"),
    ("statistics.median", "import statistics\nprint(statistics.median({list}))", "{list}"),
    ("statistics.mean", "import statistics\nprint(statistics.mean({list}))", "{list}"),
)
_PAGES = (
    "abs all any ascii bin bool breakpoint callable chr delattr divmod enumerate eval filter format getattr hasattr "
    "hash hex id input isinstance issubclass len list locals max min next oct ord pow repr reversed round setattr "
    "sorted sum ZeroDivisionError KeyError IndexError ValueError TypeError NameError StopIteration OSError "
    "FileNotFoundError ImportError AttributeError RecursionError UnicodeError PermissionError "
    "str.upper str.lower str.strip str.split str.join str.replace str.find str.count str.startswith str.endswith "
    "str.isdigit str.isalpha str.title str.zfill str.center str.ljust str.casefold str.partition str.swapcase "
    "list.append list.insert list.pop list.remove list.reverse list.sort list.extend list.index list.count list.clear "
    "dict.get dict.setdefault dict.popitem dict.fromkeys set.add set.discard set.union set.remove set.issubset "
    "tuple.count tuple.index int.bit_length float.is_integer bytes.decode bytes.hex "
    "math.sqrt math.floor math.ceil math.gcd math.lcm math.isqrt math.factorial math.comb math.perm math.hypot "
    "math.log2 math.log10 math.exp math.sin math.cos math.degrees math.radians math.prod math.dist math.fabs "
    "math.isclose math.isnan math.trunc statistics.mean statistics.median statistics.mode statistics.stdev "
    "random.choice random.randint random.shuffle random.uniform random.sample json.dumps json.loads json.dump "
    "re.match re.search re.findall re.sub re.split re.escape re.compile os.getcwd os.listdir os.mkdir os.remove "
    "os.rename os.path.join os.path.exists os.path.basename os.path.dirname os.path.isfile os.path.getsize "
    "shutil.copy shutil.move shutil.rmtree shutil.which itertools.chain itertools.permutations itertools.combinations "
    "itertools.product itertools.islice itertools.accumulate itertools.groupby itertools.count itertools.repeat "
    "functools.reduce functools.partial functools.wraps collections.Counter collections.deque collections.OrderedDict "
    "collections.defaultdict heapq.heappush heapq.heappop heapq.nlargest bisect.bisect_left bisect.insort "
    "copy.copy copy.deepcopy textwrap.wrap textwrap.dedent textwrap.shorten time.sleep time.time time.perf_counter "
    "datetime.date datetime.timedelta secrets.token_hex hashlib.sha256 base64.b64encode uuid.uuid4 glob.glob "
    "subprocess.run tempfile.mkdtemp csv.reader csv.writer calendar.isleap calendar.monthrange operator.itemgetter "
    "operator.add string.capwords struct.pack zlib.compress zlib.crc32 html.escape shlex.split timeit.timeit "
    "pprint.pprint inspect.signature contextlib.suppress dataclasses.dataclass dataclasses.replace enum.Enum "
    "fractions.Fraction decimal.Decimal pathlib.Path queue.Queue threading.Thread urllib.parse.quote difflib.ndiff"
).split()


def _slots(rng: random.Random) -> dict[str, str]:
    """Every slot of one dialogue, as text."""
    a, b = rng.sample(range(2, 100), 2)
    w, v, u = rng.sample(_WORDS, 3)
    n, o = rng.sample(_NAMES, 2)
    numbers = rng.sample(range(1, 100), rng.randint(3, 5))
    slots = {
        "a": a,
        "b": b,
        "c": rng.randint(3, 9),
        "m": rng.randint(100, 999),
        "k": rng.randint(100, 9999),
        "sq": rng.randint(4, 60) ** 2,
        "ascii": rng.randint(65, 122),
        "w": w,
        "v": v,
        "u": u,
        "n": n,
        "o": o,
        "l": rng.choice(w),
        "p": rng.choice(("x", "n", "data", "value", "item", "text")),
        "list": numbers,
        "words": [w, v, u],
        "year": rng.randint(1600, 2400),
        "month": rng.randint(1, 12),
        "day": rng.randint(1, 28),
        "bits": bin(rng.randint(8, 255))[2:],
    }
    slots["numbers"] = ", ".join(map(str, numbers))
    slots["spaced"] = " ".join(map(str, numbers))
    slots["bug"], slots["repaired"], slots["repair"] = (text.format(**slots) for text in rng.choice(_BUGS))
    slots["risky"], slots["clean"], slots["broken"] = (
        rng.choice(bank).format(**slots) for bank in (_RISKS, _CLEAN, _BROKEN)
    )
    slots["use"], slots["using"], slots["on"] = (text.format(**slots) for text in rng.choice(_USES))
    slots["page"] = rng.choice(_documented())
    return {name: str(value) for name, value in (slots | _function(rng, slots)).items()}


def _function(rng: random.Random, slots: dict) -> dict[str, str]:
    """A function, right and wrong, with two tests of which the wrong one fails the first."""
    names, parameters, right, wrong, sort, task = rng.choice(_FUNCTIONS)
    right, wrong, name = right.format(**slots), wrong.format(**slots), rng.choice(names)

    def result(expression: str, given: tuple):
        return eval(expression, dict(zip(parameters.split(", "), given)))  # expressions of the table above

    cases: list[tuple] = []
    while len(cases) < 2:
        given = {
            "int": lambda: (rng.randint(1, 30),),
            "ints": lambda: (rng.randint(3, 30), rng.randint(2, 20)),
            "list": lambda: (rng.sample(range(1, 50), 3),),
            "word": lambda: (rng.choice(_WORDS),),
        }[sort]()
        if result(right, given) != result(wrong, given) and given not in cases:
            cases.append(given)
    calls = [f"{name}({', '.join(map(repr, given))})".replace("'", '"') for given in cases]
    values = [repr(result(right, given)).replace("'", '"') for given in cases]
    return {
        "f": name,
        "task": task.format(**slots),
        "call": calls[0],
        "right": right,
        "function": f"def {name}({parameters}):\n    return {right}",
        "wrong": f"def {name}({parameters}):\n    return {wrong}",
        "tests": "\n".join(f"assert {call} == {value}" for call, value in zip(calls, values)),
    }


@functools.cache
def _documented() -> list[str]:
    """The names of _PAGES whose page this Python's documentation has and opens with a short sentence."""
    documented = []
    for name in _PAGES:
        text = documentation.search_docs(name)
        short = 12 <= len(_first_sentence(text)) <= 110
        if short and re.match(rf"(module )?{re.escape(name)}\b", text):
            documented.append(name)
    return documented


def _first_sentence(page: str) -> str:
    body = page.partition("\n")[2].partition("\n")[0]
    return re.split(r"(?<=[a-z)`'\"*])\. |:$", body)[0].rstrip(".")


# --- templates -----------------------------------------------------------------------------------------------------


def _computed(questions: str, code: str, answers: str) -> Template:
    return Template(tuple(questions.split("|")), (_python(code),), tuple(answers.split("|")))


def _shelled(questions: str, command: str, answers: str) -> Template:
    return Template(tuple(questions.split("|")), (_bash(command),), tuple(answers.split("|")))


_IS = "The result is {x}.|It is {x}.|That gives {x}."

_SINGLE = (
    _computed(
        "What is {m} times {b}?|Multiply {m} by {b}.|Compute {m} * {b}.|{n} buys {m} boxes of {b} each. How "
        "many in all?",
        "print({m} * {b})",
        "{m} times {b} is {x}.|The product is {x}.",
    ),
    _computed(
        "Add {k} and {m}.|What is {k} plus {m}?|Compute {k} + {m}.|{n} has {k} coins and finds {m}. How many now?",
        "print({k} + {m})",
        "{k} plus {m} is {x}.|The sum is {x}.",
    ),
    _computed(
        "What is {k} minus {m}?|Subtract {m} from {k}.|Compute {k} - {m}.",
        "print({k} - {m})",
        "{k} minus {m} is {x}.|The difference is {x}.",
    ),
    _computed(
        "Divide {k} by {a} and give quotient and remainder.|What are the quotient and remainder of {k} and {a}?",
        "print({k} // {a}, {k} % {a})",
        "The quotient and remainder are {x}.",
    ),
    _computed(
        "What is {a} to the power {c}?|Raise {a} to the power of {c}.|Compute {a} ** {c}.",
        "print({a} ** {c})",
        "{a} to the power {c} is {x}.|The power is {x}.",
    ),
    _computed(
        "What is {a} percent of {k}?|Compute {a}% of {k}.", "print({k} * {a} / 100)", "{a} percent of {k} is {x}."
    ),
    _computed(
        "What is the integer square root of {k}?|Round the square root of {k} down.",
        "import math\nprint(math.isqrt({k}))",
        "The integer square root of {k} is {x}.",
    ),
    _computed(
        "Find the greatest common divisor of {k} and {m}.|What is the gcd of {k} and {m}?",
        "import math\nprint(math.gcd({k}, {m}))",
        "The greatest common divisor is {x}.",
    ),
    _computed(
        "Sum the numbers from 1 to {k}.|What is 1 + 2 + ... + {k}?",
        "print(sum(range(1, {k} + 1)))",
        "The numbers from 1 to {k} add up to {x}.",
    ),
    _computed(
        "Is {k} a prime number?|Check whether {k} is prime.",
        "n = {k}\nprint('prime' if all(n % i for i in range(2, n)) else 'not prime')",
        "{k} is {x}.",
    ),
    _computed(
        "What are the divisors of {m}?|List the divisors of {m}.",
        "print([i for i in range(1, {m} + 1) if {m} % i == 0])",
        "The divisors of {m} are {x}.",
    ),
    _computed(
        "Add the digits of {k}.|What is the digit sum of {k}?",
        "print(sum(int(d) for d in '{k}'))",
        "The digits of {k} add up to {x}.",
    ),
    _computed("Convert {m} to binary.|Write {m} in binary.", "print(bin({m}))", "{m} in binary is {x}."),
    _computed("Convert {k} to hexadecimal.|Write {k} in hex.", "print(hex({k}))", "{k} in hexadecimal is {x}."),
    _computed(
        "What number is {bits} in binary?|Convert binary {bits} to decimal.",
        "print(int('{bits}', 2))",
        "Binary {bits} is {x}.",
    ),
    _computed(
        "Convert {a} degrees Celsius to Fahrenheit.|What is {a} C in Fahrenheit?",
        "print({a} * 9 / 5 + 32)",
        "{a} degrees Celsius is {x} Fahrenheit.",
    ),
    _computed(
        "Reverse the word {w}.|Spell {w} backwards.|What is {w} reversed?",
        "print('{w}'[::-1])",
        "{w} reversed is {x}.|Backwards it is {x}.",
    ),
    _computed(
        "How many letters do {w} and {v} have together?|Count the letters of {w} and {v} together.",
        "print(len('{w}' + '{v}'))",
        "Together they have {x} letters.",
    ),
    _computed(
        "How often does {l} occur in {w} {v}?|Count the letter {l} in {w} {v}.",
        "print('{w} {v}'.count('{l}'))",
        "The count of {l} is {x}.",
    ),
    _computed(
        "How many vowels are in {w} {v}?|Count the vowels in {w} {v}.",
        "print(sum(c in 'aeiou' for c in '{w} {v}'))",
        "There are {x} vowels.",
    ),
    _computed(
        "Is {w} longer than {v}?|Tell me whether {w} is longer than {v}.",
        "print('longer' if len('{w}') > len('{v}') else 'not longer')",
        "The word {w} is {x} than {v}.",
    ),
    _computed(
        "Write {w} {v} in capitals.|Put {w} {v} in upper case.", "print('{w} {v}'.upper())", "In upper case it is {x}."
    ),
    _computed(
        "Join {w}, {v} and {u} with dashes.|Put dashes between {w}, {v} and {u}.",
        "print('-'.join({words}))",
        "Joined they are {x}.",
    ),
    _computed(
        "Sort the letters of {w}.|Put the letters of {w} in order.",
        "print(''.join(sorted('{w}')))",
        "Sorted, the letters are {x}.",
    ),
    _computed("Sort the numbers {numbers}.|Put {numbers} in order.", "print(sorted({list}))", "Sorted: {x}."),
    _computed(
        "What is the average of {numbers}?|Find the mean of {numbers}.",
        "nums = {list}\nprint(round(sum(nums) / len(nums), 2))",
        "The average is {x}.",
    ),
    _computed(
        "What is the largest of {numbers}?|Find the maximum of {numbers}.", "print(max({list}))", "The largest is {x}."
    ),
    _computed(
        "What is the median of {numbers}?|Find the median of {numbers}.",
        "import statistics\nprint(statistics.median({list}))",
        "The median is {x}.",
    ),
    _computed(
        "Double each of {numbers}.|Multiply each of {numbers} by 2.",
        "print([2 * n for n in {list}])",
        "Doubled they are {x}.",
    ),
    _computed(
        "Is {year} a leap year?|Check whether {year} is a leap year.",
        "import calendar\nprint('a leap year' if calendar.isleap({year}) else 'no leap year')",
        "{year} is {x}.",
    ),
    _computed(
        "What weekday is {year}-{month}-{day}?|On which day of the week falls {year}-{month}-{day}?",
        "import datetime\nprint(datetime.date({year}, {month}, {day}).strftime('%A'))",
        "It is a {x}.",
    ),
    _computed(
        "How many days after {year}-{month}-{day} is the year's end?|How many days remain after "
        "{year}-{month}-{day} in that year?",
        "from datetime import date\nprint((date({year}, 12, 31) - date({year}, {month}, {day})).days)",
        "There are {x} days left.",
    ),
    Template(
        (
            "Run this code:\nprint([i * {a} for i in range({c})])",
            "What does this print?\nprint([i * {a} for i in range({c})])",
        ),
        (_python("print([i * {a} for i in range({c})])"),),
        ("It prints {x}.",),
    ),
    Template(
        ("Run this code:\n{function}\nprint({call})", "What does this print?\n{function}\nprint({call})"),
        (_python("{function}\nprint({call})"),),
        ("It prints {x}.", "The output is {x}."),
    ),
    _shelled("Use the shell to compute {k} + {m}.|In bash, what is {k} + {m}?", "echo $(({k} + {m}))", _IS),
    _shelled("Use the shell to multiply {m} by {a}.|In bash, what is {m} * {a}?", "echo $(({m} * {a}))", _IS),
    _shelled("Echo {w} {v} in the shell.|Use bash to print {w} {v}.", "echo {w} {v}", "The shell printed {x}."),
    _shelled(
        "Use the shell to write {w} {v} in capitals.|In bash, turn {w} {v} into upper case.",
        "echo {w} {v} | tr a-z A-Z",
        "In capitals it is {x}.",
    ),
    _shelled(
        "Count the words of '{w} {v} {n} {u}' in the shell.|With wc, count the words of '{w} {v} {n} {u}'.",
        "echo {w} {v} {n} {u} | wc -w | tr -d ' '",
        "There are {x} words.",
    ),
    _shelled(
        "Sort {w}, {v} and {u} with the shell.|Use sort on {w}, {v} and {u}.",
        "printf '%s\\n' {w} {v} {u} | sort",
        "Sorted they are {x}.",
    ),
    _shelled(
        "Use the shell to find the largest of {numbers}.|With sort, find the largest of {numbers}.",
        "printf '%s\\n' {spaced} | sort -n | tail -1",
        "The largest is {x}.",
    ),
    _shelled(
        "Make a file {w}.txt with the text {v} and show it.|Write {v} to {w}.txt and print the file.",
        "echo {v} > {w}.txt && cat {w}.txt",
        "{w}.txt now contains {x}.",
    ),
    _shelled(
        "Make folders {w} and {v} and list them.|Create the folders {w} and {v}, then run ls.",
        "mkdir {w} {v} && ls -d {w} {v}",
        "The folders are {x}.",
    ),
    _shelled(
        "How long is the word {w}{v}? Use the shell.|In bash, count the letters of {w}{v}.",
        "word={w}{v}; echo ${{#word}}",
        "It has {x} letters.",
    ),
    _shelled(
        "Count from {a} to {a} plus 4 with seq.|Use seq to list {a} and the next 4 numbers.",
        "seq {a} $(({a} + 4))",
        "seq printed {x}.",
    ),
    _shelled(
        "What is the file name in /home/{w}/{v}.txt? Use basename.|Run basename on /home/{w}/{v}.txt.",
        "basename /home/{w}/{v}.txt",
        "The file name is {x}.",
    ),
    _shelled(
        "Replace {l} by _ in {w} with sed.|Use sed to turn every {l} of {w} into _.",
        "echo {w} | sed 's/{l}/_/g'",
        "The word becomes {x}.",
    ),
    _shelled(
        "Get the second field of {w},{v},{u} with cut.|Use cut to take field 2 of {w},{v},{u}.",
        "echo {w},{v},{u} | cut -d, -f2",
        "The second field is {x}.",
    ),
    _shelled(
        "How many of {w}, {v}, {u} contain {l}? Use grep.|With grep, count the words with {l} in {w}, {v}, {u}.",
        "printf '%s\\n' {w} {v} {u} | grep -c {l}",
        "{x} of them contain {l}.",
    ),
    Template(
        (
            "Look up {page} in the docs.",
            "What do the docs say about {page}?",
            "Search the documentation for {page}.",
            "Find {page} in Python's documentation.",
            "{n} asks what {page} is. Check the docs.",
        ),
        (("search_docs", {"query": "{page}"}),),
        ("The docs say: {xs}.", "According to the docs: {xs}.", "{page}: {xs}."),
    ),
    Template(
        (
            "Is this code safe?\n{risky}",
            "Check this code for security problems:\n{risky}",
            "Does this code have insecure parts?\n{risky}",
        ),
        (("analyze_code", {"code": "{risky}"}),),
        ("It is not safe: it uses {xv3}.", "There is a risk: {xv3}."),
    ),
    Template(
        ("How complex is this function?\n{clean}", "What is the complexity of this code?\n{clean}"),
        (("analyze_code", {"code": "{clean}"}),),
        ("The analysis found {xv1}.",),
    ),
    Template(
        ("Which docstrings are missing here?\n{clean}", "Does this code lack a docstring?\n{clean}"),
        (("analyze_code", {"code": "{clean}"}),),
        ("The analysis says: {x2}.", "Docstrings missing: {xv2}."),
    ),
    Template(
        ("Is this valid Python?\n{broken}", "Check the syntax of this code:\n{broken}", "Analyze this code:\n{broken}"),
        (("analyze_code", {"code": "{broken}"}),),
        ("It is not valid: {x}.", "There is a {x}."),
    ),
    Template(
        ("Test this function:\n{function}\nwith\n{tests}", "Run these tests:\n{tests}\non\n{function}"),
        (_TEST,),
        ("All good: {x}.", "The tests ran: {x}."),
    ),
    Template(
        (
            "Write a function {f} that {task}, and test it with\n{tests}",
            "I need {f}, which {task}. It must pass\n{tests}",
        ),
        (_TEST,),
        ("{f} works: {x}.", "Done, {x}."),
    ),
    Template(
        ("Test this function:\n{wrong}\nwith\n{tests}", "Run these tests:\n{tests}\non\n{wrong}"),
        (_TEST_WRONG,),
        ("The test fails: {x2}.", "It does not pass: {x2}."),
    ),
    Template(
        (
            "Why does this code fail?\n{bug}",
            "Debug this:\n{bug}",
            "What is wrong here?\n{bug}",
            "Find the error in this code:\n{bug}",
        ),
        (("debug_code", {"code": "{bug}"}),),
        ("It fails with {xe} on {x2}.", "The code raises {xe} on {x2}."),
    ),
    Template(
        ("Does this code raise an error?\n{repaired}", "Debug this:\n{repaired}"),
        (("debug_code", {"code": "{repaired}"}),),
        ("There is {x1}; the output begins with {x2}.",),
    ),
)

_CHAIN = (
    Template(
        (
            "Run {call} with this function, then test it:\n{function}\n{tests}",
            "Show {call} and then run the tests:\n{function}\n{tests}",
        ),
        (_python("{function}\nprint({call})"), _TEST),
        ("{call} gives {x}, and the tests say {y}.",),
    ),
    Template(
        ("Multiply {m} by {a}, then add {b} in the shell.", "What is {m} * {a}? Then use bash to add {b}."),
        (_python("print({m} * {a})"), _bash("echo $(({x} + {b}))")),
        ("The product is {x}, and with {b} more it is {y}.",),
    ),
    Template(
        ("Add {numbers} in Python, then square the sum.", "Sum {numbers} and then square the result."),
        (_python("print(sum({list}))"), _python("print({x} ** 2)")),
        ("The sum is {x} and its square is {y}.",),
    ),
    Template(
        (
            "Compute {k} + {m} in the shell, then give its digit sum.",
            "In bash add {k} and {m}, then add up the digits with Python.",
        ),
        (_bash("echo $(({k} + {m}))"), _python("print(sum(int(d) for d in '{x}'))")),
        ("The sum is {x} and its digits add up to {y}.",),
    ),
    Template(
        (
            "Reverse {w}, then print it in capitals in the shell.",
            "Spell {w} backwards and then use bash for upper case.",
        ),
        (_python("print('{w}'[::-1])"), _bash("echo {x} | tr a-z A-Z")),
        ("Backwards it is {x}, in capitals {y}.",),
    ),
    Template(
        (
            "Write {w} and {v} to a file, then tell how long the text is.",
            "Save {w} {v} in a file, show it, then count the characters with Python.",
        ),
        (_bash("echo {w} {v} > note.txt && cat note.txt"), _python("print(len('{x}'))")),
        ("The file says {x}, which has {y} characters.",),
    ),
    Template(
        (
            "Check this function's quality and then test it:\n{function}\n{tests}",
            "Analyze this function, then run the tests:\n{function}\n{tests}",
        ),
        (("analyze_code", {"code": "{function}"}), _TEST),
        ("Missing docstring: {xv2}; the tests say {y}.",),
    ),
    Template(
        (
            "Look up {use}, then use it on {on}.",
            "Read the docs of {use} and apply it to {on}.",
            "Find {use} in the docs and try it with {on}.",
        ),
        (("search_docs", {"query": "{use}"}), _python("{using}")),
        ("I looked up {use}, and it gives {y}.",),
    ),
    Template(
        (
            "Find the error in this code, then run it repaired:\n{bug}",
            "Debug this code and run a correct version:\n{bug}",
        ),
        (("debug_code", {"code": "{bug}"}), _python("{repaired}")),
        ("It raised {xe}, so I {repair}; it prints {y}.",),
    ),
    Template(
        ("Is this function safe and does it work?\n{function}\n{tests}",),
        (("analyze_code", {"code": "{function}"}), _TEST),
        ("Insecure parts: {xv3}; the tests say {y}.",),
    ),
    Template(
        (
            "Test {f} and then show {call}:\n{function}\n{tests}",
            "Run the tests, then print {call}:\n{function}\n{tests}",
        ),
        (_TEST, _python("{function}\nprint({call})")),
        ("The tests say {x}, and {call} gives {y}.",),
    ),
)

_FIX = (
    Template(
        (
            "Run this code:\n{bug}",
            "Execute this, and repair it if it fails:\n{bug}",
            "What does this print?\n{bug}",
            "Please run this for {n}:\n{bug}",
        ),
        (_python("{bug}"), _python("{repaired}")),
        ("It failed with {xe}, so I {repair}; it now prints {y}.", "It raised {xe}; I {repair}, and it prints {y}."),
    ),
    Template(
        ("Make this function pass:\n{wrong}\n{tests}", "{f} {task}. Test it and repair it:\n{wrong}\n{tests}"),
        (_TEST_WRONG, _TEST),
        ("The first test failed; with {right} it is right: {y}.",),
    ),
    Template(
        ("Run ehco {w} {v} in the shell.", "In bash, run: ehco {w} {v}"),
        (_bash("ehco {w} {v}"), _bash("echo {w} {v}")),
        ("ehco does not exist; echo printed {y}.",),
    ),
    Template(
        ("Show the file {w}.txt, or make it with the text {v}.", "Print {w}.txt; if it is missing, write {v} to it."),
        (_bash("cat {w}.txt"), _bash("echo {v} > {w}.txt && cat {w}.txt")),
        ("{w}.txt was missing, so I made it; it says {y}.",),
    ),
    Template(
        ("Make the folder {w}/{v}.", "Create a folder {v} inside {w}."),
        (_bash("mkdir {w}/{v}"), _bash("mkdir -p {w}/{v} && ls {w}")),
        ("{w} did not exist, so I made both; {w} contains {y}.",),
    ),
    Template(
        (
            "Count the lines of {w}.csv, and make it with {a} lines if it is missing.",
            "How many lines has {w}.csv? Make it with {a} lines if there is none.",
        ),
        (_bash("cat {w}.csv | grep -c ''"), _bash("seq {a} > {w}.csv; grep -c '' {w}.csv")),
        ("{w}.csv was missing; the new file has {y} lines.",),
    ),
    Template(
        (
            "Is this valid? Repair it if not:\ndef {w}({p})\n    return {p} + {a}",
            "Check and repair:\ndef {w}({p})\n    return {p} + {a}",
        ),
        (
            ("analyze_code", {"code": "def {w}({p})\n    return {p} + {a}"}),
            ("analyze_code", {"code": "def {w}({p}):\n    return {p} + {a}"}),
        ),
        ("The colon was missing; now the analysis says {y1}.",),
    ),
    Template(
        ("Debug this until it runs:\n{bug}", "Find and repair the error:\n{bug}"),
        (("debug_code", {"code": "{bug}"}), ("debug_code", {"code": "{repaired}"})),
        ("It failed with {xe}, so I {repair}; now there is {y1}.",),
    ),
)

#: ways to ask, separated by |, and the answer
_FACTS = (
    (
        "Which keyword defines a function?|What keyword starts a function definition?|How do I define a function?",
        "Python defines a function with def.",
    ),
    (
        "Which keyword defines a class?|How does a class definition begin?|What keyword makes a class?",
        "Python defines a class with class.",
    ),
    (
        "Which keyword leaves a loop?|How do I leave a loop early?|What ends a loop at once?",
        "The keyword break leaves a loop.",
    ),
    (
        "Which keyword skips to the next round of a loop?|How do I skip the rest of one loop round?",
        "The keyword continue goes on with the next round.",
    ),
    (
        "Which keyword imports a module?|How do I load a module?|What statement loads a module?",
        "A module is loaded with import.",
    ),
    ("What does None mean?|What is None?|What does None stand for?", "None stands for the absence of a value."),
    ("Are lists mutable?|Can a list be changed?|Can I change a list in place?", "Yes, lists are mutable."),
    ("Are tuples mutable?|Can a tuple be changed?|Can I change a tuple in place?", "No, tuples are immutable."),
    ("Are strings mutable?|Can a string be changed in place?|Is str a mutable type?", "No, strings are immutable."),
    (
        "Can a set hold an item twice?|Do sets keep duplicates?|Are items of a set unique?",
        "A set holds every item only once.",
    ),
    (
        "What is the index of the first item?|At which index does a list start?|Do lists count from 0 or 1?",
        "Lists are indexed from 0.",
    ),
    ("What does index -1 mean?|Which item has the index -1?|What is items[-1]?", "Index -1 is the last item."),
    ("What starts a comment?|How do I write a comment?|Which sign begins a comment?", "A comment starts with #."),
    ("Who created Python?|Who invented Python?|Who wrote the first Python?", "Guido van Rossum created Python."),
    (
        "When was Python first released?|In which year did Python appear?|How old is Python?",
        "Python first appeared in 1991.",
    ),
    (
        "What is Python named after?|Where does the name Python come from?|Why is it called Python?",
        "Python is named after Monty Python.",
    ),
    ("What is PEP 8?|What does PEP 8 contain?|What is PEP 8 for?", "PEP 8 is Python's style guide."),
    (
        "How many spaces does PEP 8 indent by?|How deep should I indent?|What is the usual indentation?",
        "PEP 8 indents by four spaces.",
    ),
    (
        "What is a docstring?|What does a docstring do?|What is the string below def for?",
        "A docstring is text that documents a function, class or module.",
    ),
    (
        "What is a lambda?|What does lambda make?|What is a lambda expression?",
        "A lambda is a small function without a name.",
    ),
    (
        "What is a generator?|What does yield make of a function?|What is a function with yield called?",
        "A function with yield is a generator.",
    ),
    (
        "What is a decorator?|What does @ above a function mean?|What does a decorator do?",
        "A decorator is a function that wraps another function.",
    ),
    ("What is a dictionary?|What does a dict store?|What is a dict?", "A dictionary maps keys to values."),
    ("Which type has True and False?|What type is True?|What is the type of False?", "True and False are bool values."),
    (
        "Which type is 3.5?|What type has a number with a decimal point?|What is the type of 0.1?",
        "A number with a decimal point is a float.",
    ),
    ("Which type is 42?|What type has a whole number?|What is the type of 7?", "A whole number is an int."),
    (
        "Which operator is integer division?|How do I divide without remainder?|What does // do?",
        "The operator // divides and rounds down.",
    ),
    (
        "Which operator gives the remainder?|What does % do with numbers?|What is the modulo operator?",
        "The operator % gives the remainder.",
    ),
    ("Which operator is for powers?|How do I write a power?|What does ** do?", "The operator ** raises to a power."),
    (
        "What does == do?|How do I compare two values?|Which operator tests equality?",
        "The operator == compares two values.",
    ),
    (
        "What is the difference of == and is?|What does is compare?|When is `is` true?",
        "The operator is asks whether two names are the same object.",
    ),
    (
        "How do I catch an exception?|Which keywords handle errors?|What handles an exception?",
        "Exceptions are handled with try and except.",
    ),
    (
        "Which keyword raises an exception?|How do I raise an error?|What statement signals an error?",
        "The keyword raise raises an exception.",
    ),
    (
        "What does finally do?|When does a finally block run?|What is finally for?",
        "A finally block runs whether or not there was an error.",
    ),
    (
        "What does with do for files?|Why open files using with?|What is the gain of with open?",
        "The with statement closes the file at the end.",
    ),
    (
        "What does self mean?|What is self in a method?|What is the first parameter of a method?",
        "In a method, self is the object itself.",
    ),
    (
        "What does __init__ do?|What is __init__ for?|Which method sets up a new object?",
        "The method __init__ sets up a new object.",
    ),
    ("What is pip?|What does pip do?|What installs Python packages?", "pip installs Python packages."),
    (
        "What is a virtual environment?|What is venv for?|Why use a venv?",
        "A virtual environment keeps a project's packages apart.",
    ),
    (
        "What is a module?|What do we call a Python file to import?|What is a Python module?",
        "A module is a file of Python code.",
    ),
    (
        "What is a package?|What is a folder of modules called?|What is a Python package?",
        "A package is a folder of modules.",
    ),
    (
        "Which file ending does Python use?|What do Python files end in?|How should I name a Python file?",
        "Python files end in .py.",
    ),
    (
        "Which error does a missing key raise?|What happens with a key that is not in a dict?|When do I see KeyError?",
        "A missing key raises KeyError.",
    ),
    (
        "Which error does a bad index raise?|What happens past the end of a list?|When do I see IndexError?",
        "An index outside the list raises IndexError.",
    ),
    (
        "Which error does an unknown name raise?|What happens with an undefined name?|When do I see NameError?",
        "An unknown name raises NameError.",
    ),
    (
        "Which error does division by zero raise?|What happens when I divide by 0?|When do I see ZeroDivisionError?",
        "Division by zero raises ZeroDivisionError.",
    ),
    (
        "What is an f-string?|What does f before a string do?|How do I put values into a string?",
        "An f-string puts values in braces into the text.",
    ),
    (
        "Which function gives the length?|How do I get the length of a list?|What counts the items of a list?",
        "The function len gives the length.",
    ),
    ("Which function prints text?|How do I print text?|What writes to the screen?", "The function print prints text."),
    (
        "Which function reads input?|How do I ask the user for text?|What reads a line from the user?",
        "The function input reads a line.",
    ),
    ("What does range(5) count?|Where does range(5) end?|Does range(5) contain 5?", "range(5) counts from 0 to 4."),
    ("How do I make an empty dict?|What does {} mean?|What is {} in Python?", "An empty dictionary is written {}."),
    ("How do I make an empty set?|Why is {} no set?|What is an empty set called?", "An empty set is written set()."),
    ("What does pass do?|What is pass for?|When do I need pass?", "The statement pass does nothing."),
    ("What does elif mean?|What is elif short for?|Which keyword adds a condition to if?", "elif means else if."),
    (
        "Is Python case sensitive?|Are Name and name the same in Python?|Does Python tell A from a?",
        "Yes, Python is case sensitive.",
    ),
    (
        "Do I need semicolons in Python?|How does a Python statement end?|What ends a line of Python?",
        "No semicolons are needed; a line's end ends the statement.",
    ),
    (
        "What does return do?|What is return for?|How does a function give back a value?",
        "The keyword return gives back a value.",
    ),
    (
        "What does assert do?|What is assert for?|When does assert fail?",
        "assert raises AssertionError when its condition is false.",
    ),
    (
        "What is recursion?|What is a recursive function?|What do we call a function that calls itself?",
        "A recursive function calls itself.",
    ),
)
_MANNERS = (
    "{}",
    "Quick question: {}",
    "{} Answer briefly.",
    "Tell me: {}",
    "Hi! {}",
    "I forgot: {}",
    "{} Thanks!",
    "One more: {}",
    "Please tell me: {}",
    "{} Just in a sentence.",
)


# --- building ------------------------------------------------------------------------------------------------------


def build_dialogues(count: int = 2000, seed: int = 0, unsafe: bool = False) -> list[dict]:
    """`count` dialogues {"messages", "kind"}, no two with the same user text; a function of `count` and `seed`.

    Raises UserError without a sandbox, as `tools.call` does, and when the templates run out of new texts.
    """
    if count < 0:
        raise UserError(f"The number of tool dialogues must be 0 or more, not {count}.")
    plans, asked = [], set()
    decks = {kind: itertools.cycle(_decks(kind)) for kind in KINDS}
    for index in range(count):
        kind = _MIX[index % len(_MIX)]
        deck = next(decks[kind])
        for attempt in range(1000):
            plan = _plan(kind, deck, random.Random(f"{seed}/{index}/{attempt}"))
            if plan["question"] not in asked:
                break
        else:
            raise UserError(f"The templates have fewer than {count} tool dialogues; ask for fewer.")
        asked.add(plan["question"])
        plans.append(plan)
    for step in range(max((len(plan["steps"]) for plan in plans), default=0)):
        due = [plan for plan in plans if len(plan["steps"]) > step]
        calls = [_filled(plan["steps"][step], plan["slots"]) for plan in due]
        for plan, (name, arguments), output in zip(due, calls, tools.call_many(calls, unsafe=unsafe)):
            plan["turns"] += [
                {"role": "assistant", "content": tools.format_call(name, arguments)},
                {"role": "tool", "content": output},
            ]
            plan["slots"] |= _output_slots("xyz"[step], output)
    dialogues = []
    for plan in plans:
        answer = plan["answer"] if not plan["steps"] else plan["answer"].format(**plan["slots"])
        messages = [
            {"role": "user", "content": plan["question"]},
            *plan["turns"],
            {"role": "assistant", "content": answer},
        ]
        dialogues.append({"messages": messages, "kind": plan["kind"]})
    random.Random(f"{seed}/order").shuffle(dialogues)
    return dialogues


def _decks(kind: str) -> list[tuple]:
    """The templates to draw from in turn: by tool for single calls, so that each tool has its share."""
    if kind == "none":
        return [_FACTS]
    if kind == "single":
        by_tool = {name: tuple(row for row in _SINGLE if row.steps[0][0] == name) for name in tools.TOOLS}
        return [by_tool["execute_python"], *by_tool.values()]
    if kind == "chain":
        return [(row,) for row in _CHAIN]
    return [(row,) for row in (_FIX[0], *_FIX[:2], *_FIX)]  # repairs of Python code are the most varied


def _plan(kind: str, deck: Sequence, rng: random.Random) -> dict:
    row = rng.choice(deck)
    if kind == "none":
        question = rng.choice(_MANNERS).format(rng.choice(row[0].split("|")))
        return {"kind": kind, "question": question, "steps": (), "slots": {}, "answer": row[1], "turns": []}
    slots = _slots(rng)
    return {
        "kind": kind,
        "question": rng.choice(row.questions).format(**slots),
        "steps": row.steps,
        "slots": slots,
        "answer": rng.choice(row.answers),
        "turns": [],
    }


def _filled(step: tuple[str, dict[str, str]], slots: dict[str, str]) -> tuple[str, dict[str, str]]:
    name, arguments = step
    return name, {argument: text.format(**slots) for argument, text in arguments.items()}


def _output_slots(letter: str, output: str) -> dict[str, str]:
    lines = output.split("\n")
    error = re.search(r"^\w*(?:Error|Exception)\b", output, re.MULTILINE)
    slots = {
        letter: ", ".join(lines),
        f"{letter}e": error[0] if error else "error",
        f"{letter}s": _first_sentence(output),
    }
    for number, line in enumerate((*lines, "", "", "")[:3], 1):
        slots |= {f"{letter}{number}": line, f"{letter}v{number}": line.partition(": ")[2]}
    return slots


def split_dialogues(dialogues: Sequence[dict], train: int = 1800) -> tuple[list[dict], list[dict]]:
    """(train, test) in the given order, `train` dialogues in the first unless groups make that impossible.

    Dialogues that share the user's text or the first call (the same values in other words) stay together; questions
    without a call stay together by text alone, so that a fact may be in both in other words.
    """
    if not 0 <= train <= len(dialogues):
        raise UserError(f"Cannot keep {train} of {len(dialogues)} tool dialogues for training; choose fewer.")
    groups: dict[str, list[int]] = {}
    for index, dialogue in enumerate(dialogues):
        merged = [index]
        for members in {id(groups[key]): groups[key] for key in _keys(dialogue) if key in groups}.values():
            merged += members
        for member in merged:
            groups |= {key: merged for key in _keys(dialogues[member])}
    distinct = list({id(members): sorted(members) for members in groups.values()}.values())
    distinct.sort()
    random.Random(0).shuffle(distinct)
    test: set[int] = set()
    for members in distinct:
        if len(test) + len(members) <= len(dialogues) - train:
            test.update(members)
    return (
        [dialogue for index, dialogue in enumerate(dialogues) if index not in test],
        [dialogue for index, dialogue in enumerate(dialogues) if index in test],
    )


def _keys(dialogue: dict) -> list[str]:
    user = next(message["content"] for message in dialogue["messages"] if message["role"] == "user")
    first = next(message["content"] for message in dialogue["messages"] if message["role"] == "assistant")
    return [f"user {user}", f"call {first}"] if first.startswith("<tool_call>") else [f"user {user}"]


# --- bfcl-eval -----------------------------------------------------------------------------------------------------

#: its single-turn parts, without those for Java and JavaScript, whose values are written in those languages
BFCL_PACKAGE = "bfcl-eval==2026.3.23"
BFCL_SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
BFCL_PARTS = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "irrelevance",
    "live_irrelevance",
)
_NO_TOOL_FITS = "None of the tools I have can do that."
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None, "": None}


def bfcl(source: str, say: Callable[[str], None] = print) -> list[dict]:
    """Dialogues of bfcl-eval: `package` fetches the pinned one and reads its data files only; else a folder of them."""
    if source != "package":
        return from_bfcl(source)
    say(f"{BFCL_PACKAGE}: licence Apache-2.0")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(fetch_wheel(BFCL_PACKAGE, BFCL_SHA256, Path(folder))) as archive:
            archive.extractall(folder, [n for n in archive.namelist() if n.startswith("bfcl_eval/data/")])
        return from_bfcl(Path(folder) / "bfcl_eval" / "data")


def from_bfcl(folder: str | Path) -> list[dict]:
    """bfcl-eval's single-turn tasks as dialogues, from its `data` folder or one `BFCL_v4_*.json` file of it.

    The right calls are in `possible_answer/` beside; where the tools on offer do not fit, the assistant says so.
    Tasks with earlier turns are left out. Of several right values the first is taken, and an argument that may be
    left out is. Raises UserError when the data is not there or not of that form.
    """
    folder = Path(folder)
    if folder.is_file():
        paths = [folder]
    else:
        candidates = [folder / f"BFCL_v4_{part}.json" for part in BFCL_PARTS]
        paths = [path for path in candidates if path.is_file()]
    if not paths:
        raise UserError(f"No BFCL_v4_*.json is in {folder}; give the data folder of an unpacked bfcl-eval.")
    dialogues = []
    for path in paths:
        answers = {}
        if "irrelevance" not in path.name:
            answers = {
                row["id"]: row["ground_truth"]
                for row in _rows(path.parent / "possible_answer" / path.name, "id", "ground_truth")
            }
        for row in _rows(path, "id", "question", "function"):
            if "irrelevance" not in path.name and row["id"] not in answers:
                raise UserError(
                    f"{path.parent / 'possible_answer' / path.name} has no answer to {row['id']}; "
                    "take both files from the same bfcl-eval."
                )
            try:
                dialogue = _from_row(row, answers.get(row["id"]))
            except (KeyError, TypeError, AttributeError, IndexError, ValueError):
                raise UserError(
                    f"The task {row['id']} in {path} is not of the form of bfcl-eval's single-turn tasks; "
                    "take the file from bfcl-eval 2026.3.23."
                ) from None
            if dialogue:
                dialogues.append(dialogue)
    return dialogues


def _rows(path: Path, *keys: str) -> list[dict]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except OSError:
        raise UserError(f"{path} cannot be read; give the data folder of an unpacked bfcl-eval.") from None
    except ValueError:
        raise UserError(f"{path} is not JSON lines; take the file from bfcl-eval.") from None
    for row in rows:
        if not isinstance(row, dict) or not all(key in row for key in keys):
            raise UserError(f"A line of {path} lacks {' or '.join(keys)}; take the file from bfcl-eval.")
    return rows


def _from_row(row: dict, answer: list[dict] | None) -> dict | None:
    turns = row["question"][0]
    if len(row["question"]) != 1 or [turn["role"] for turn in turns] not in (["user"], ["system", "user"]):
        return None
    required = {function["name"]: function["parameters"].get("required", ()) for function in row["function"]}
    calls = [
        tools.format_call(name, _arguments(right, required[name]))
        for one in answer or ()
        for name, right in one.items()
    ]
    kind = "none" if not calls else "single" if len(calls) == 1 else "parallel"
    asked = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    return {
        "kind": kind,
        "messages": [*asked, {"role": "assistant", "content": "\n".join(calls) or _NO_TOOL_FITS}],
        "tools": [_schema(function) for function in row["function"]],
    }


def _arguments(right: dict[str, list], required: Sequence[str]) -> dict:
    """One choice of arguments from the right values of each; "" among them says that it may be left out."""
    chosen = {}
    for key, values in right.items():
        if "" not in values:
            chosen[key] = _value(values[0]) if values else []
        elif key in required and (given := [value for value in values if value != ""]):
            chosen[key] = _value(given[0])
    return chosen


def _value(value):
    """The first right value; inside an object every value is again a list of right ones."""
    if isinstance(value, dict):
        return {
            key: _value(values[0]) if isinstance(values, list) and values else values
            for key, values in value.items()
            if not (isinstance(values, list) and "" in values)
        }
    return [_value(item) for item in value] if isinstance(value, list) else value


def _schema(function: dict) -> dict:
    """A function as JSON schema in OpenAI's form."""
    return {
        "type": "function",
        "function": {
            "name": function["name"],
            "description": function["description"],
            "parameters": _json_types(function["parameters"]),
        },
    }


def _json_types(schema: dict) -> dict:
    fixed: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            fixed[key] = {name: _json_types(part) for name, part in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            fixed[key] = _json_types(value)
        elif key == "type" and isinstance(value, str):
            if (known := _JSON_TYPES.get(value, value)) is not None:
                fixed[key] = known
        elif key != "optional":
            fixed[key] = value
    return fixed
