"""Tasks on numbers."""

from mlxrlhf.tasks.task import Task

TASKS = (
    Task(
        name="is_prime",
        phrasings=(
            "Write a function that checks whether a number is prime.",
            "How do I test if an integer is prime in Python?",
            "Give me a Python function is_prime(n).",
            "I need code that tells if n is a prime number.",
            "Implement a primality check for a whole number.",
            "Write a function to check if a number is prime",
            "Can you write a prime number test?",
        ),
        solution='''
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    if n < 2:
        return False
    divisor = 2
    while divisor * divisor <= n:
        if n % divisor == 0:
            return False
        divisor += 1
    return True
''',
        naive="""
def is_prime(n):
    if n < 2:
        return False
    for i in range(2, n):
        if n % i == 0:
            return False
    return True
""",
        tests=(
            "assert is_prime(2)",
            "assert is_prime(97)",
            "assert not is_prime(1)",
            "assert not is_prime(0)",
            "assert not is_prime(49)",
            "assert not is_prime(-7)",
        ),
        rejected={
            "correctness": (
                '''
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    for divisor in range(2, n):
        if n % divisor == 0:
            return False
    return True
''',
                '''
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    if n < 2:
        return False
    return n == 2 or n % 2 == 1
''',
            ),
            "efficiency": (
                '''
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    return divisors == [1, n] and n > 1
''',
            ),
            "security": (
                '''
def is_prime(n: int) -> bool:
    """Return True if n is a prime number."""
    try:
        return n > 1 and all(eval(f"{n} % {d}") for d in range(2, n))
    except:
        return False
''',
            ),
        },
        sizes=("is_prime(101)", "is_prime(1009)"),
    ),
    Task(
        name="factorial",
        phrasings=(
            "Write a function that computes the factorial of n.",
            "How do I calculate a factorial in Python?",
            "Give me factorial(n) in Python.",
            "I need the factorial of a number.",
            "Implement factorial for non-negative integers.",
            "Write a Python function to compute the factorial.",
            "Code for n factorial, please.",
        ),
        solution='''
def factorial(n: int) -> int:
    """Return the product of the integers from 1 to n."""
    product = 1
    for factor in range(2, n + 1):
        product *= factor
    return product
''',
        naive="""
def factorial(n):
    if n == 0:
        return 1
    return n * factorial(n - 1)
""",
        tests=(
            "assert factorial(0) == 1",
            "assert factorial(1) == 1",
            "assert factorial(5) == 120",
            "assert factorial(10) == 3628800",
        ),
        rejected={
            "correctness": (
                '''
def factorial(n: int) -> int:
    """Return the product of the integers from 1 to n."""
    product = 1
    for factor in range(1, n):
        product *= factor
    return product
''',
                '''
def factorial(number: int) -> int:
    """Return the product of the integers from 1 to the number."""
    if number == 1:
        return 1
    result = number + factorial(number - 1)
    return result
''',
            ),
            "security": (
                '''
def factorial(n: int) -> int:
    """Return the product of the integers from 1 to n."""
    return eval("*".join(str(factor) for factor in range(1, n + 1)) or "1")
''',
            ),
        },
    ),
    Task(
        name="fibonacci",
        phrasings=(
            "Write a function that returns the n-th Fibonacci number.",
            "How do I compute Fibonacci numbers?",
            "Give me fibonacci(n) in Python.",
            "I need the n-th number of the Fibonacci sequence.",
            "Implement Fibonacci efficiently.",
            "Write a Fibonacci function in Python.",
            "Code for the Fibonacci sequence, n-th term.",
        ),
        solution='''
def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number, counting from 0."""
    current, following = 0, 1
    for _ in range(n):
        current, following = following, current + following
    return current
''',
        naive="""
def fibonacci(n):
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)
""",
        tests=(
            "assert fibonacci(0) == 0",
            "assert fibonacci(1) == 1",
            "assert fibonacci(2) == 1",
            "assert fibonacci(10) == 55",
        ),
        rejected={
            "correctness": (
                '''
def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number, counting from 0."""
    current, following = 1, 1
    for _ in range(n):
        current, following = following, current + following
    return current
''',
            ),
            "efficiency": (
                '''
def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number, counting from 0."""
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)
''',
            ),
        },
        sizes=("fibonacci(8)", "fibonacci(16)"),
    ),
    Task(
        name="gcd",
        phrasings=(
            "Write a function for the greatest common divisor of two numbers.",
            "How do I compute a gcd?",
            "Give me gcd(a, b) in Python.",
            "I need the greatest common divisor of a and b.",
            "Implement Euclid's algorithm for the gcd.",
            "Write a Python gcd function.",
            "Code for the greatest common divisor, please.",
        ),
        solution='''
def gcd(first: int, second: int) -> int:
    """Return the greatest common divisor of two numbers."""
    while second:
        first, second = second, first % second
    return abs(first)
''',
        naive="""
def gcd(a, b):
    while b:
        a, b = b, a % b
    return abs(a)
""",
        tests=(
            "assert gcd(12, 18) == 6",
            "assert gcd(7, 5) == 1",
            "assert gcd(0, 9) == 9",
            "assert gcd(100, 10) == 10",
        ),
        rejected={
            "correctness": (
                '''
def gcd(first: int, second: int) -> int:
    """Return the greatest common divisor of two numbers."""
    while second:
        first, second = second, first // second
    return abs(first)
''',
            ),
            "efficiency": (
                '''
def gcd(first: int, second: int) -> int:
    """Return the greatest common divisor of two numbers."""
    best = max(abs(first), abs(second))
    for divisor in range(best, 0, -1):
        if first % divisor == 0 and second % divisor == 0:
            return divisor
    return best
''',
            ),
        },
        sizes=("gcd(34, 21)", "gcd(987, 610)"),
    ),
    Task(
        name="sum_digits",
        phrasings=(
            "Write a function that sums the digits of a number.",
            "How do I add up the digits of an integer?",
            "Give me sum_digits(n) in Python.",
            "I need the sum of the digits of a number.",
            "Implement a digit sum.",
            "Write a Python function for the sum of digits.",
            "Code that adds the digits of n.",
        ),
        solution='''
def sum_digits(number: int) -> int:
    """Return the sum of the decimal digits of a number."""
    return sum(int(digit) for digit in str(abs(number)))
''',
        naive="""
def sum_digits(n):
    n = abs(n)
    s = 0
    while n > 0:
        s += n % 10
        n //= 10
    return s
""",
        tests=(
            "assert sum_digits(0) == 0",
            "assert sum_digits(123) == 6",
            "assert sum_digits(-45) == 9",
            "assert sum_digits(1000) == 1",
        ),
        rejected={
            "correctness": (
                '''
def sum_digits(number: int) -> int:
    """Return the sum of the decimal digits of a number."""
    total = 0
    while number > 10:
        total += number % 10
        number //= 10
    return total
''',
            ),
            "security": (
                '''
def sum_digits(number: int) -> int:
    """Return the sum of the decimal digits of a number."""
    return eval("+".join(str(abs(number))))
''',
            ),
        },
    ),
    Task(
        name="is_even",
        phrasings=(
            "Write a function that checks whether a number is even.",
            "How do I test if a number is even?",
            "Give me is_even(n) in Python.",
            "I need code that tells if n is even.",
            "Implement an even number check.",
            "Write a Python function for even numbers.",
            "Is a number even? Write the function.",
        ),
        solution='''
def is_even(number: int) -> bool:
    """Return True if the number is even."""
    return number % 2 == 0
''',
        naive="""
def is_even(n):
    if n % 2 == 0:
        return True
    else:
        return False
""",
        tests=(
            "assert is_even(0)",
            "assert is_even(-4)",
            "assert not is_even(7)",
            "assert is_even(10)",
        ),
        rejected={
            "correctness": (
                '''
def is_even(number: int) -> bool:
    """Return True if the number is even."""
    return number % 2 == 1
''',
                '''
def is_even(number: int) -> bool:
    """Return True if the number is even."""
    if number <= 0:
        return False
    return number % 2 == 0
''',
            ),
            "security": (
                '''
def is_even(number: int) -> bool:
    """Return True if the number is even."""
    try:
        return eval(f"{number} % 2 == 0")
    except:
        return False
''',
            ),
        },
    ),
    Task(
        name="is_leap_year",
        phrasings=(
            "Write a function that checks for a leap year.",
            "How do I test if a year is a leap year?",
            "Give me is_leap_year(year) in Python.",
            "I need code that tells if a year is a leap year.",
            "Implement the leap year rule.",
            "Write a Python leap year function.",
            "Code for leap years, please.",
        ),
        solution='''
def is_leap_year(year: int) -> bool:
    """Return True if the year is a leap year."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
''',
        naive="""
def is_leap_year(y):
    if y % 400 == 0:
        return True
    if y % 100 == 0:
        return False
    return y % 4 == 0
""",
        tests=(
            "assert is_leap_year(2024)",
            "assert not is_leap_year(1900)",
            "assert is_leap_year(2000)",
            "assert not is_leap_year(2023)",
        ),
        rejected={
            "correctness": (
                '''
def is_leap_year(year: int) -> bool:
    """Return True if the year is a leap year."""
    return year % 4 == 0
''',
                '''
def is_leap_year(year: int) -> bool:
    """Return True if the year is a leap year."""
    if year % 100 == 0:
        return False
    return year % 4 == 0
''',
            ),
        },
        held_out=True,
    ),
    Task(
        name="power",
        phrasings=(
            "Write a function that raises a base to a power.",
            "How do I compute a power without **?",
            "Give me power(base, exponent) in Python.",
            "I need fast exponentiation, base to a power.",
            "Implement power by squaring.",
            "Write a Python power function.",
            "Code for a number to a power.",
        ),
        solution='''
def power(base: int, exponent: int) -> int:
    """Return the base raised to a non-negative exponent."""
    result = 1
    while exponent > 0:
        if exponent % 2 == 1:
            result *= base
        base *= base
        exponent //= 2
    return result
''',
        naive="""
def power(b, e):
    r = 1
    for i in range(e):
        r = r * b
    return r
""",
        tests=(
            "assert power(2, 10) == 1024",
            "assert power(5, 0) == 1",
            "assert power(3, 1) == 3",
            "assert power(-2, 3) == -8",
        ),
        rejected={
            "correctness": (
                '''
def power(base: int, exponent: int) -> int:
    """Return the base raised to a non-negative exponent."""
    return base * exponent
''',
            ),
            "efficiency": (
                '''
def power(base: int, exponent: int) -> int:
    """Return the base raised to a non-negative exponent."""
    result = 1
    for _ in range(exponent):
        result *= base
    return result
''',
            ),
            "security": (
                '''
def power(base: int, exponent: int) -> int:
    """Return the base raised to a non-negative exponent."""
    return eval(f"({base}) ** {exponent}")
''',
            ),
        },
        sizes=("power(3, 20)", "power(3, 200)"),
    ),
    Task(
        name="celsius_to_fahrenheit",
        phrasings=(
            "Write a function that converts Celsius to Fahrenheit.",
            "How do I turn Celsius into Fahrenheit?",
            "Give me celsius_to_fahrenheit(c).",
            "I need a Celsius to Fahrenheit conversion.",
            "Implement Celsius to Fahrenheit.",
            "Write Python code from Celsius to Fahrenheit.",
            "Convert Celsius degrees to Fahrenheit.",
        ),
        solution='''
def celsius_to_fahrenheit(celsius: float) -> float:
    """Return a temperature in degrees Fahrenheit."""
    return celsius * 9 / 5 + 32
''',
        naive="""
def celsius_to_fahrenheit(c):
    return c * 1.8 + 32
""",
        tests=(
            "assert celsius_to_fahrenheit(0) == 32",
            "assert celsius_to_fahrenheit(100) == 212",
            "assert celsius_to_fahrenheit(-40) == -40",
        ),
        rejected={
            "correctness": (
                '''
def celsius_to_fahrenheit(celsius: float) -> float:
    """Return a temperature in degrees Fahrenheit."""
    return (celsius + 32) * 9 / 5
''',
            ),
        },
    ),
    Task(
        name="clamp",
        phrasings=(
            "Write a function that clamps a value between two bounds.",
            "How do I clamp a number to a range?",
            "Give me clamp(value, low, high).",
            "I need to clamp a value into a range.",
            "Implement clamp.",
            "Write a Python clamp function.",
            "Code to clamp numbers, please.",
        ),
        solution='''
def clamp(value: float, low: float, high: float) -> float:
    """Return the value limited to the range from low to high."""
    return max(low, min(value, high))
''',
        naive="""
def clamp(value, low, high):
    if value < low:
        return low
    if value > high:
        return high
    return value
""",
        tests=(
            "assert clamp(5, 0, 10) == 5",
            "assert clamp(-1, 0, 10) == 0",
            "assert clamp(11, 0, 10) == 10",
            "assert clamp(0, 0, 0) == 0",
        ),
        rejected={
            "correctness": (
                '''
def clamp(value: float, low: float, high: float) -> float:
    """Return the value limited to the range from low to high."""
    return min(low, max(value, high))
''',
                '''
def clamp(value: float, low: float, high: float) -> float:
    """Return the value limited to the range from low to high."""
    if value < low:
        return low
    return high
''',
            ),
        },
    ),
    Task(
        name="evaluate_expression",
        phrasings=(
            "Write a function that evaluates an arithmetic expression.",
            "How do I evaluate an expression safely?",
            "Give me evaluate(expression) for sums.",
            "I need to evaluate an expression such as 1 + 2 + 3.",
            "Implement evaluate for an expression of additions.",
            "Write a safe expression evaluator for sums.",
            "Code to evaluate an expression with plus signs.",
        ),
        solution='''
def evaluate(expression: str) -> int:
    """Return the sum of the terms of an expression such as 1 + 2."""
    return sum(int(term) for term in expression.split("+"))
''',
        naive="""
def evaluate(expression):
    total = 0
    for term in expression.split("+"):
        total += int(term)
    return total
""",
        tests=(
            "assert evaluate('1 + 2') == 3",
            "assert evaluate('7') == 7",
            "assert evaluate('1+2+3') == 6",
        ),
        rejected={
            "correctness": (
                '''
def evaluate(expression: str) -> int:
    """Return the sum of the terms of an expression such as 1 + 2."""
    return sum(int(term) for term in expression if term.isdigit() and term > "1")
''',
            ),
            "security": (
                '''
def evaluate(expression: str) -> int:
    """Return the sum of the terms of an expression such as 1 + 2."""
    return eval(expression)
''',
                '''
def evaluate(expression: str) -> int:
    """Return the sum of the terms of an expression such as 1 + 2."""
    scope: dict = {}
    exec("result = " + expression, scope)
    return scope["result"]
''',
            ),
        },
        held_out=True,
    ),
)
