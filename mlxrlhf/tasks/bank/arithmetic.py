"""Tasks on divisors, digits and averages."""

from mlxrlhf.tasks.task import Task

TASKS = (
    Task(
        name="lcm",
        phrasings=(
            "Write a function for the least common multiple of two numbers.",
            "How do I compute the lcm of two integers?",
            "Give me lcm(a, b) in Python.",
            "I need the smallest number that both inputs divide.",
            "Implement the least common multiple.",
            "Code that returns the lcm of two positive integers",
            "Can you calculate a least common multiple for me?",
        ),
        solution='''
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    multiple = first
    while multiple % second != 0:
        multiple += first
    return multiple
''',
        naive="""
def lcm(a, b):
    m = a
    while m % b != 0:
        m += a
    return m
""",
        tests=("assert lcm(4, 6) == 12", "assert lcm(1, 7) == 7", "assert lcm(5, 5) == 5", "assert lcm(3, 8) == 24"),
        rejected={
            "correctness": (
                '''
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    return first * second
''',
                '''
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    return max(first, second)
''',
            ),
            "efficiency": (
                '''
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    multiple = 1
    while multiple % first != 0 or multiple % second != 0:
        multiple += 1
    return multiple
''',
            ),
            "security": (
                '''
def lcm(first: int, second: int) -> int:
    """Return the least common multiple of two positive integers."""
    multiple = first
    while eval(f"{multiple} % {second}") != 0:
        multiple += first
    return multiple
''',
            ),
        },
        sizes=("lcm(4, 6)", "lcm(40, 66)"),
    ),
    Task(
        name="count_primes",
        phrasings=(
            "Write a function that counts the primes below n.",
            "How many prime numbers are there below a limit, in Python?",
            "Give me count_primes(n).",
            "I need to count all primes smaller than a number.",
            "Implement a prime counter with a sieve.",
            "Code to count how many primes are below n",
            "Can you count the prime numbers under a limit?",
        ),
        solution='''
def count_primes(limit: int) -> int:
    """Return how many primes are smaller than the limit."""
    is_prime = [True] * limit
    is_prime[:2] = [False] * len(is_prime[:2])
    for number in range(2, limit):
        if is_prime[number]:
            for multiple in range(number * number, limit, number):
                is_prime[multiple] = False
    return sum(is_prime)
''',
        naive="""
def count_primes(n):
    count = 0
    for i in range(2, n):
        if all(i % d for d in range(2, i)):
            count += 1
    return count
""",
        tests=(
            "assert count_primes(10) == 4",
            "assert count_primes(2) == 0",
            "assert count_primes(0) == 0",
            "assert count_primes(3) == 1",
            "assert count_primes(30) == 10",
        ),
        rejected={
            "correctness": (
                '''
def count_primes(limit: int) -> int:
    """Return how many primes are smaller than the limit."""
    count = 0
    for number in range(limit):
        if all(number % divisor for divisor in range(2, number)):
            count += 1
    return count
''',
                '''
def count_primes(limit: int) -> int:
    """Return how many primes are smaller than the limit."""
    return sum(number % 2 == 1 for number in range(2, limit)) + 1
''',
            ),
            "efficiency": (
                '''
def count_primes(limit: int) -> int:
    """Return how many primes are smaller than the limit."""
    count = 0
    for number in range(2, limit):
        divisors = [d for d in range(1, number + 1) if number % d == 0]
        if len(divisors) == 2:
            count += 1
    return count
''',
            ),
        },
        sizes=("count_primes(20)", "count_primes(200)"),
    ),
    Task(
        name="prime_factors",
        phrasings=(
            "Write a function that returns the prime factors of a number.",
            "How do I factor an integer into primes?",
            "Give me prime_factors(n) in Python.",
            "I need the list of prime factors of n.",
            "Implement prime factorization.",
            "Code to split a number into its prime factors",
            "Can you factorize an integer for me?",
        ),
        solution='''
def prime_factors(number: int) -> list[int]:
    """Return the prime factors of the number in ascending order."""
    factors = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors
''',
        naive="""
def prime_factors(n):
    f = []
    d = 2
    while n > 1:
        if n % d == 0:
            f.append(d)
            n //= d
        else:
            d += 1
    return f
""",
        tests=(
            "assert prime_factors(12) == [2, 2, 3]",
            "assert prime_factors(1) == []",
            "assert prime_factors(13) == [13]",
            "assert prime_factors(50) == [2, 5, 5]",
        ),
        rejected={
            "correctness": (
                '''
def prime_factors(number: int) -> list[int]:
    """Return the prime factors of the number in ascending order."""
    return [divisor for divisor in range(2, number + 1) if number % divisor == 0]
''',
                '''
def prime_factors(number: int) -> list[int]:
    """Return the prime factors of the number in ascending order."""
    factors = []
    for divisor in range(2, number):
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
    return factors
''',
            ),
            "security": (
                '''
def prime_factors(number: int) -> list[int]:
    """Return the prime factors of the number in ascending order."""
    factors = []
    divisor = 2
    while number > 1:
        try:
            assert number % divisor == 0
            factors.append(divisor)
            number //= divisor
        except:
            divisor += 1
    return factors
''',
            ),
        },
    ),
    Task(
        name="digital_root",
        phrasings=(
            "Write a function that sums the digits of a number until one digit is left.",
            "How do I compute a digital root in Python?",
            "Give me digital_root(n).",
            "I need the digital root of an integer.",
            "Implement repeated digit sums down to one digit.",
            "Code for the digital root",
            "Can you reduce a number to its digital root?",
        ),
        solution='''
def digital_root(number: int) -> int:
    """Return the single digit left after summing digits repeatedly."""
    while number > 9:
        number = sum(int(digit) for digit in str(number))
    return number
''',
        naive="""
def digital_root(n):
    while n > 9:
        s = 0
        while n:
            s += n % 10
            n //= 10
        n = s
    return n
""",
        tests=(
            "assert digital_root(0) == 0",
            "assert digital_root(16) == 7",
            "assert digital_root(493193) == 2",
            "assert digital_root(9) == 9",
        ),
        rejected={
            "correctness": (
                '''
def digital_root(number: int) -> int:
    """Return the single digit left after summing digits repeatedly."""
    return sum(int(digit) for digit in str(number))
''',
                '''
def digital_root(number: int) -> int:
    """Return the single digit left after summing digits repeatedly."""
    return number % 9
''',
            ),
            "security": (
                '''
def digital_root(number: int) -> int:
    """Return the single digit left after summing digits repeatedly."""
    while number > 9:
        number = eval("+".join(str(number)))
    return number
''',
            ),
        },
        held_out=True,
    ),
    Task(
        name="divisors",
        phrasings=(
            "Write a function that lists all divisors of a number.",
            "How do I find the divisors of n?",
            "Give me divisors(n) in Python.",
            "I need every number that divides n evenly.",
            "Implement a function returning all factors of an integer.",
            "Code to get the divisors of an integer",
            "Can you find all the numbers that divide n?",
        ),
        solution='''
def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number in ascending order."""
    return [value for value in range(1, number + 1) if number % value == 0]
''',
        naive="""
def divisors(n):
    result = []
    for i in range(1, n + 1):
        if n % i == 0:
            result.append(i)
    return result
""",
        tests=(
            "assert divisors(6) == [1, 2, 3, 6]",
            "assert divisors(1) == [1]",
            "assert divisors(7) == [1, 7]",
            "assert divisors(9) == [1, 3, 9]",
        ),
        rejected={
            "correctness": (
                '''
def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number in ascending order."""
    return [value for value in range(1, number) if number % value == 0]
''',
                '''
def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number in ascending order."""
    return [value for value in range(1, number + 1) if value % number == 0]
''',
            ),
            "security": (
                '''
def divisors(number: int) -> list[int]:
    """Return all divisors of a positive number in ascending order."""
    return [value for value in range(1, number + 1) if eval(f"{number} % {value} == 0")]
''',
            ),
        },
    ),
    Task(
        name="collatz_steps",
        phrasings=(
            "Write a function that counts the Collatz steps to reach 1.",
            "How many Collatz steps does n take, in Python?",
            "Give me collatz_steps(n).",
            "I need the length of the 3n + 1 sequence of a number.",
            "Implement the Collatz conjecture step counter.",
            "Code for counting Collatz steps",
            "Can you count how many steps the Collatz rule needs?",
        ),
        solution='''
def collatz_steps(number: int) -> int:
    """Return how many Collatz steps lead from the number to 1."""
    steps = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps
''',
        naive="""
def collatz_steps(n):
    steps = 0
    while n != 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        steps += 1
    return steps
""",
        tests=(
            "assert collatz_steps(1) == 0",
            "assert collatz_steps(2) == 1",
            "assert collatz_steps(6) == 8",
            "assert collatz_steps(7) == 16",
        ),
        rejected={
            "correctness": (
                '''
def collatz_steps(number: int) -> int:
    """Return how many Collatz steps lead from the number to 1."""
    steps = 1
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps
''',
                '''
def collatz_steps(number: int) -> int:
    """Return how many Collatz steps lead from the number to 1."""
    steps = 0
    while number > 1:
        number = number // 2
        steps += 1
    return steps
''',
            ),
            "efficiency": (
                '''
def collatz_steps(number: int) -> int:
    """Return how many Collatz steps lead from the number to 1."""
    seen = [number]
    while seen[-1] != 1:
        last = seen[-1]
        seen = [value for value in seen] + [last // 2 if last % 2 == 0 else 3 * last + 1]
    return len(seen) - 1
''',
            ),
        },
        sizes=("collatz_steps(6)", "collatz_steps(27)"),
    ),
    Task(
        name="is_perfect_square",
        phrasings=(
            "Write a function that checks whether a number is a perfect square.",
            "How do I test for a perfect square in Python?",
            "Give me is_perfect_square(n).",
            "I need to know if an integer is a square number.",
            "Implement a perfect square test without floats.",
            "Code to see if n is a perfect square",
            "Can you tell me if a number is the square of an integer?",
        ),
        solution='''
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    root = 0
    while root * root < number:
        root += 1
    return root * root == number
''',
        naive="""
def is_perfect_square(n):
    r = 0
    while r * r < n:
        r += 1
    return r * r == n
""",
        tests=(
            "assert is_perfect_square(0)",
            "assert is_perfect_square(49)",
            "assert not is_perfect_square(50)",
            "assert not is_perfect_square(-4)",
            "assert is_perfect_square(1)",
        ),
        rejected={
            "correctness": (
                '''
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    root = number // 2
    return root * root == number
''',
                '''
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    root = 0
    while root * root < number:
        root += 1
    return root * root >= number
''',
            ),
            "efficiency": (
                '''
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    squares = [root * root for root in range(number + 1)]
    return any(square == number for square in squares)
''',
            ),
            "security": (
                '''
def is_perfect_square(number: int) -> bool:
    """Return True if the number is the square of an integer."""
    return any(eval(f"{root} ** 2") == number for root in range(number + 1))
''',
            ),
        },
        sizes=("is_perfect_square(36)", "is_perfect_square(2500)"),
        held_out=True,
    ),
    Task(
        name="is_armstrong",
        phrasings=(
            "Write a function that checks for an Armstrong number.",
            "How do I test whether a number is an Armstrong number?",
            "Give me is_armstrong(n) in Python.",
            "I need to know if a number equals the sum of its digits raised to their count.",
            "Implement a narcissistic number check.",
            "Code for checking Armstrong numbers",
            "Can you tell whether an integer is an Armstrong number?",
        ),
        solution='''
def is_armstrong(number: int) -> bool:
    """Return True if the digits, raised to their count, sum to the number."""
    digits = str(number)
    return sum(int(digit) ** len(digits) for digit in digits) == number
''',
        naive="""
def is_armstrong(n):
    s = str(n)
    total = 0
    for c in s:
        total += int(c) ** len(s)
    return total == n
""",
        tests=(
            "assert is_armstrong(153)",
            "assert is_armstrong(9474)",
            "assert not is_armstrong(10)",
            "assert is_armstrong(7)",
            "assert not is_armstrong(154)",
        ),
        rejected={
            "correctness": (
                '''
def is_armstrong(number: int) -> bool:
    """Return True if the digits, raised to their count, sum to the number."""
    return sum(int(digit) ** 3 for digit in str(number)) == number
''',
                '''
def is_armstrong(number: int) -> bool:
    """Return True if the digits, raised to their count, sum to the number."""
    digits = str(number)
    return sum(int(digit) * len(digits) for digit in digits) == number
''',
            ),
            "security": (
                '''
def is_armstrong(number: int) -> bool:
    """Return True if the digits, raised to their count, sum to the number."""
    digits = str(number)
    return eval("+".join(f"{digit} ** {len(digits)}" for digit in digits)) == number
''',
            ),
        },
    ),
    Task(
        name="to_binary",
        phrasings=(
            "Write a function that converts a number to binary.",
            "How do I get the binary digits of an integer as a string?",
            "Give me to_binary(n) in Python.",
            "I need a decimal number written in base 2.",
            "Implement decimal to binary conversion.",
            "Code to turn an integer into its binary string",
            "Can you convert decimal to binary?",
        ),
        solution='''
def to_binary(number: int) -> str:
    """Return the binary digits of a non-negative number."""
    digits = str(number % 2)
    while number > 1:
        number //= 2
        digits = str(number % 2) + digits
    return digits
''',
        naive="""
def to_binary(n):
    if n == 0:
        return '0'
    s = ''
    while n > 0:
        s = str(n % 2) + s
        n //= 2
    return s
""",
        tests=(
            "assert to_binary(0) == '0'",
            "assert to_binary(1) == '1'",
            "assert to_binary(10) == '1010'",
            "assert to_binary(255) == '11111111'",
        ),
        rejected={
            "correctness": (
                '''
def to_binary(number: int) -> str:
    """Return the binary digits of a non-negative number."""
    digits = ''
    while number > 0:
        digits += str(number % 2)
        number //= 2
    return digits
''',
                '''
def to_binary(number: int) -> str:
    """Return the binary digits of a non-negative number."""
    return bin(number)
''',
            ),
            "security": (
                '''
def to_binary(number: int) -> str:
    """Return the binary digits of a non-negative number."""
    return eval(f"format({number}, 'b')")
''',
            ),
        },
    ),
    Task(
        name="reverse_integer",
        phrasings=(
            "Write a function that reverses the digits of an integer.",
            "How do I reverse a number in Python and keep its sign?",
            "Give me reverse_integer(n).",
            "I need an integer with its digits in the opposite order.",
            "Implement reversing an integer.",
            "Code to reverse the digits of a number",
            "Can you flip the digits of an int, negative ones too?",
        ),
        solution='''
def reverse_integer(number: int) -> int:
    """Return the number with its digits reversed and its sign kept."""
    digits = int(str(abs(number))[::-1])
    return -digits if number < 0 else digits
''',
        naive="""
def reverse_integer(n):
    r = 0
    m = abs(n)
    while m > 0:
        r = r * 10 + m % 10
        m //= 10
    return -r if n < 0 else r
""",
        tests=(
            "assert reverse_integer(123) == 321",
            "assert reverse_integer(-45) == -54",
            "assert reverse_integer(0) == 0",
            "assert reverse_integer(100) == 1",
        ),
        rejected={
            "correctness": (
                '''
def reverse_integer(number: int) -> int:
    """Return the number with its digits reversed and its sign kept."""
    return int(str(abs(number))[::-1])
''',
                '''
def reverse_integer(number: int) -> int:
    """Return the number with its digits reversed and its sign kept."""
    return -number
''',
            ),
            "security": (
                '''
def reverse_integer(number: int) -> int:
    """Return the number with its digits reversed and its sign kept."""
    digits = str(abs(number))[::-1].lstrip("0") or "0"
    return eval("-" + digits) if number < 0 else eval(digits)
''',
            ),
        },
    ),
    Task(
        name="mean",
        phrasings=(
            "Write a function that returns the average of a list of numbers.",
            "How do I compute the mean of a list?",
            "Give me mean(numbers) in Python.",
            "I need the arithmetic average of some values.",
            "Implement the mean; an empty list gives 0.",
            "Code for the average of a list",
            "Can you average a list of numbers?",
        ),
        solution='''
def mean(numbers: list[float]) -> float:
    """Return the average of the numbers, 0 for none."""
    if not numbers:
        return 0.0
    return sum(numbers) / len(numbers)
''',
        naive="""
def mean(l):
    if len(l) == 0:
        return 0.0
    s = 0
    for x in l:
        s += x
    return s / len(l)
""",
        tests=(
            "assert mean([1, 2, 3]) == 2",
            "assert mean([]) == 0",
            "assert mean([5]) == 5",
            "assert mean([1, 2]) == 1.5",
        ),
        rejected={
            "correctness": (
                '''
def mean(numbers: list[float]) -> float:
    """Return the average of the numbers, 0 for none."""
    return sum(numbers) / len(numbers)
''',
                '''
def mean(numbers: list[float]) -> float:
    """Return the average of the numbers, 0 for none."""
    if not numbers:
        return 0.0
    return sum(numbers) // len(numbers)
''',
            ),
            "security": (
                '''
def mean(numbers: list[float]) -> float:
    """Return the average of the numbers, 0 for none."""
    try:
        return sum(numbers) / len(numbers)
    except:
        return 0.0
''',
            ),
        },
    ),
    Task(
        name="median",
        phrasings=(
            "Write a function that returns the median of a list.",
            "How do I find the middle value of some numbers?",
            "Give me median(numbers) in Python.",
            "I need the median of a list of numbers.",
            "Implement the median for odd and even lengths.",
            "Code to compute a median",
            "Can you find the median of unsorted values?",
        ),
        solution='''
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
''',
        naive="""
def median(l):
    l = sorted(l)
    n = len(l)
    if n % 2 == 1:
        return l[n // 2]
    return (l[n // 2 - 1] + l[n // 2]) / 2
""",
        tests=(
            "assert median([3, 1, 2]) == 2",
            "assert median([4, 1, 3, 2]) == 2.5",
            "assert median([7]) == 7",
            "assert median([1, 1, 5, 9]) == 3",
        ),
        rejected={
            "correctness": (
                '''
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    return numbers[len(numbers) // 2]
''',
                '''
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    return sorted(numbers)[len(numbers) // 2]
''',
            ),
            "efficiency": (
                '''
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    ordered = []
    for number in numbers:
        place = 0
        while place < len(ordered) and ordered[place] < number:
            place += 1
        ordered.insert(place, number)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
''',
            ),
            "security": (
                '''
def median(numbers: list[float]) -> float:
    """Return the middle value of the numbers, or the mean of the middle two."""
    ordered = eval(f"sorted({numbers})")
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
''',
            ),
        },
        sizes=("median([3, 1, 2])", "median(list(range(60)))"),
        held_out=True,
    ),
    Task(
        name="percentage_change",
        phrasings=(
            "Write a function that gives the percentage change between two values.",
            "How do I compute a percent change in Python?",
            "Give me percentage_change(old, new).",
            "I need to know by how many percent a price went up or down.",
            "Implement percentage change from an old to a new value.",
            "Code for percent change between two numbers",
            "Can you compute how many percent a value grew?",
        ),
        solution='''
def percentage_change(old: float, new: float) -> float:
    """Return the change from old to new in percent of old."""
    return (new - old) / old * 100
''',
        naive="""
def percentage_change(old, new):
    diff = new - old
    return diff / old * 100
""",
        tests=(
            "assert percentage_change(50, 75) == 50",
            "assert percentage_change(100, 80) == -20",
            "assert percentage_change(10, 10) == 0",
        ),
        rejected={
            "correctness": (
                '''
def percentage_change(old: float, new: float) -> float:
    """Return the change from old to new in percent of old."""
    return (new - old) / new * 100
''',
                '''
def percentage_change(old: float, new: float) -> float:
    """Return the change from old to new in percent of old."""
    return abs(new - old) / old * 100
''',
            ),
            "security": (
                '''
def percentage_change(old: float, new: float) -> float:
    """Return the change from old to new in percent of old."""
    return eval(f"({new} - {old}) / {old} * 100")
''',
            ),
        },
    ),
    Task(
        name="moving_average",
        phrasings=(
            "Write a function that computes a moving average.",
            "How do I smooth a list with a sliding window average?",
            "Give me moving_average(numbers, window) in Python.",
            "I need the average of every window of k numbers.",
            "Implement a rolling mean.",
            "Code for the rolling average of a series",
            "Can you average each sliding window of a list?",
        ),
        solution='''
def moving_average(numbers: list[float], window: int) -> list[float]:
    """Return the average of every run of `window` numbers."""
    averages = []
    for start in range(len(numbers) - window + 1):
        averages.append(sum(numbers[start:start + window]) / window)
    return averages
''',
        naive="""
def moving_average(l, k):
    r = []
    for i in range(len(l) - k + 1):
        r.append(sum(l[i:i + k]) / k)
    return r
""",
        tests=(
            "assert moving_average([1, 2, 3, 4], 2) == [1.5, 2.5, 3.5]",
            "assert moving_average([5], 1) == [5]",
            "assert moving_average([1, 2], 3) == []",
            "assert moving_average([3, 3, 3], 3) == [3]",
        ),
        rejected={
            "correctness": (
                '''
def moving_average(numbers: list[float], window: int) -> list[float]:
    """Return the average of every run of `window` numbers."""
    averages = []
    for start in range(len(numbers)):
        averages.append(sum(numbers[start:start + window]) / window)
    return averages
''',
                '''
def moving_average(numbers: list[float], window: int) -> list[float]:
    """Return the average of every run of `window` numbers."""
    return [sum(numbers) / window for _ in range(len(numbers) - window + 1)]
''',
            ),
            "efficiency": (
                '''
def moving_average(numbers: list[float], window: int) -> list[float]:
    """Return the average of every run of `window` numbers."""
    averages = []
    for start in range(len(numbers) - window + 1):
        total = 0
        for offset in range(window):
            total += numbers[start + offset]
        averages.append(total / window)
    return averages
''',
            ),
        },
        sizes=("moving_average([1, 2, 3, 4], 3)", "moving_average(list(range(60)), 9)"),
    ),
    Task(
        name="count_set_bits",
        phrasings=(
            "Write a function that counts the one bits of an integer.",
            "How do I count set bits in Python?",
            "Give me count_set_bits(n).",
            "I need the number of 1s in the binary form of a number.",
            "Implement a population count.",
            "Code to count the ones in a binary number",
            "Can you count how many bits of n are set?",
        ),
        solution='''
def count_set_bits(number: int) -> int:
    """Return how many bits of a non-negative number are 1."""
    count = 0
    while number:
        number &= number - 1
        count += 1
    return count
''',
        naive="""
def count_set_bits(n):
    c = 0
    while n > 0:
        c += n % 2
        n //= 2
    return c
""",
        tests=(
            "assert count_set_bits(0) == 0",
            "assert count_set_bits(7) == 3",
            "assert count_set_bits(8) == 1",
            "assert count_set_bits(255) == 8",
        ),
        rejected={
            "correctness": (
                '''
def count_set_bits(number: int) -> int:
    """Return how many bits of a non-negative number are 1."""
    return str(number).count("1")
''',
                '''
def count_set_bits(number: int) -> int:
    """Return how many bits of a non-negative number are 1."""
    count = 0
    while number:
        number >>= 1
        count += 1
    return count
''',
            ),
            "efficiency": (
                '''
def count_set_bits(number: int) -> int:
    """Return how many bits of a non-negative number are 1."""
    count = 0
    power = 1
    while power <= number:
        if number // power % 2 == 1:
            count += 1
        power *= 2
    return count
''',
            ),
        },
        sizes=("count_set_bits(5)", "count_set_bits(10 ** 9)"),
    ),
)
