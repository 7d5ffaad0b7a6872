"""Tasks on lists and dictionaries."""

from mlxrlhf.tasks.task import Task

TASKS = (
    Task(
        name="find_max",
        phrasings=(
            "Write a function that finds the largest number of a list.",
            "How do I write the largest number in Python?",
            "Give me a Python function find_max.",
            "I need code for the largest number: it finds the largest number of a list.",
            "Implement the largest number.",
            "Write a Python function for the largest number",
            "Can you write code that finds the largest number of a list?",
        ),
        solution='''
def find_max(numbers: list[int]) -> int:
    """Return the largest of the numbers."""
    largest = numbers[0]
    for number in numbers[1:]:
        if number > largest:
            largest = number
    return largest
''',
        naive="""
def find_max(a):
    m = a[0]
    for x in a:
        if x > m:
            m = x
    return m
""",
        tests=(
            "assert find_max([1, 3, 2]) == 3",
            "assert find_max([-5, -2]) == -2",
            "assert find_max([7]) == 7",
        ),
        rejected={
            "correctness": (
                '''
def find_max(numbers: list[int]) -> int:
    """Return the largest of the numbers."""
    largest = 0
    for number in numbers:
        if number > largest:
            largest = number
    return largest
''',
                '''
def find_max(numbers: list[int]) -> int:
    """Return the largest of the numbers."""
    return numbers[-1]
''',
            ),
            "efficiency": (
                '''
def find_max(numbers: list[int]) -> int:
    """Return the largest of the numbers."""
    for number in numbers:
        if all(number >= other for other in numbers):
            return number
    return numbers[0]
''',
            ),
        },
        sizes=("find_max([1, 2, 3, 4])", "find_max(list(range(60)))"),
    ),
    Task(
        name="remove_duplicates",
        phrasings=(
            "Write a function that removes duplicates and keeps the order.",
            "How do I write removing duplicates in Python?",
            "Give me a Python function remove_duplicates.",
            "I need code for removing duplicates: it removes duplicates and keeps the order.",
            "Implement removing duplicates.",
            "Write a Python function for removing duplicates",
            "Can you write code that removes duplicates and keeps the order?",
        ),
        solution='''
def remove_duplicates(items: list) -> list:
    """Return the items without repeats, in order."""
    return list(dict.fromkeys(items))
''',
        naive="""
def remove_duplicates(a):
    r = []
    for x in a:
        if x not in r:
            r.append(x)
    return r
""",
        tests=(
            "assert remove_duplicates([3, 1, 3]) == [3, 1]",
            "assert remove_duplicates([]) == []",
            "assert remove_duplicates(['b', 'a', 'b']) == ['b', 'a']",
        ),
        rejected={
            "correctness": (
                '''
def remove_duplicates(items: list) -> list:
    """Return the items without repeats, in order."""
    return sorted(set(items))
''',
                '''
def remove_duplicates(items: list) -> list:
    """Return the items without repeats, in order."""
    return [item for item in items if items.count(item) == 1]
''',
            ),
            "efficiency": (
                '''
def remove_duplicates(items: list) -> list:
    """Return the items without repeats, in order."""
    unique = []
    for item in items:
        if not any(item == seen for seen in unique):
            unique.append(item)
    return unique
''',
            ),
        },
        sizes=("remove_duplicates([1, 2, 3])", "remove_duplicates(list(range(40)))"),
    ),
    Task(
        name="flatten",
        phrasings=(
            "Write a function that flattens a list of lists.",
            "How do I write flattening a list in Python?",
            "Give me a Python function flatten.",
            "I need code for flattening a list: it flattens a list of lists.",
            "Implement flattening a list.",
            "Write a Python function for flattening a list",
            "Can you write code that flattens a list of lists?",
        ),
        solution='''
def flatten(lists: list[list]) -> list:
    """Return the items of all lists in one list."""
    return [item for inner in lists for item in inner]
''',
        naive="""
def flatten(a):
    r = []
    for x in a:
        r += x
    return r
""",
        tests=(
            "assert flatten([[1], [2, 3]]) == [1, 2, 3]",
            "assert flatten([]) == []",
            "assert flatten([[], [1]]) == [1]",
        ),
        rejected={
            "correctness": (
                '''
def flatten(lists: list[list]) -> list:
    """Return the items of all lists in one list."""
    return [inner[0] for inner in lists if inner]
''',
                '''
def flatten(lists: list[list]) -> list:
    """Return the items of all lists in one list."""
    flat = []
    for inner in lists:
        flat.append(inner)
    return flat
''',
            ),
        },
    ),
    Task(
        name="binary_search",
        phrasings=(
            "Write a function that finds a number in a sorted list by binary search.",
            "How do I write binary search in Python?",
            "Give me a Python function binary_search.",
            "I need code for binary search: it finds a number in a sorted list by binary search.",
            "Implement binary search.",
            "Write a Python function for binary search",
            "Can you write code that finds a number in a sorted list by binary search?",
        ),
        solution='''
def binary_search(numbers: list[int], target: int) -> int:
    """Return the index of the target, or -1."""
    low, high = 0, len(numbers) - 1
    while low <= high:
        middle = (low + high) // 2
        if numbers[middle] == target:
            return middle
        if numbers[middle] < target:
            low = middle + 1
        else:
            high = middle - 1
    return -1
''',
        naive="""
def binary_search(a, t):
    for i in range(len(a)):
        if a[i] == t:
            return i
    return -1
""",
        tests=(
            "assert binary_search([1, 3, 5], 5) == 2",
            "assert binary_search([1, 3, 5], 1) == 0",
            "assert binary_search([1, 3], 2) == -1",
            "assert binary_search([], 1) == -1",
        ),
        rejected={
            "correctness": (
                '''
def binary_search(numbers: list[int], target: int) -> int:
    """Return the index of the target, or -1."""
    low, high = 0, len(numbers) - 1
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < target:
            low = middle + 1
        else:
            high = middle
    return low
''',
            ),
            "efficiency": (
                '''
def binary_search(numbers: list[int], target: int) -> int:
    """Return the index of the target, or -1."""
    for index, number in enumerate(numbers):
        if number == target:
            return index
    return -1
''',
            ),
        },
        sizes=("binary_search(list(range(90)), 89)", "binary_search(list(range(900)), 899)"),
    ),
    Task(
        name="merge_sorted",
        phrasings=(
            "Write a function that merges two sorted lists.",
            "How do I write merging sorted lists in Python?",
            "Give me a Python function merge_sorted.",
            "I need code for merging sorted lists: it merges two sorted lists.",
            "Implement merging sorted lists.",
            "Write a Python function for merging sorted lists",
            "Can you write code that merges two sorted lists?",
        ),
        solution='''
def merge_sorted(first: list[int], second: list[int]) -> list[int]:
    """Return both lists merged in order."""
    return sorted(first + second)
''',
        naive="""
def merge_sorted(a, b):
    r = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] < b[j]:
            r.append(a[i])
            i += 1
        else:
            r.append(b[j])
            j += 1
    return r + a[i:] + b[j:]
""",
        tests=(
            "assert merge_sorted([1, 3], [2]) == [1, 2, 3]",
            "assert merge_sorted([], [1]) == [1]",
            "assert merge_sorted([1], [1]) == [1, 1]",
        ),
        rejected={
            "correctness": (
                '''
def merge_sorted(first: list[int], second: list[int]) -> list[int]:
    """Return both lists merged in order."""
    return first + second
''',
                '''
def merge_sorted(first: list[int], second: list[int]) -> list[int]:
    """Return both lists merged in order."""
    return sorted(set(first + second))
''',
            ),
        },
    ),
    Task(
        name="two_sum",
        phrasings=(
            "Write a function that finds the two numbers that add up to a target.",
            "How do I write two sum in Python?",
            "Give me a Python function two_sum.",
            "I need code for two sum: it finds the two numbers that add up to a target.",
            "Implement two sum.",
            "Write a Python function for two sum",
            "Can you write code that finds the two numbers that add up to a target?",
        ),
        solution='''
def two_sum(numbers: list[int], target: int) -> list[int]:
    """Return the indices of two numbers with that sum."""
    seen: dict[int, int] = {}
    for index, number in enumerate(numbers):
        if target - number in seen:
            return [seen[target - number], index]
        seen[number] = index
    return []
''',
        naive="""
def two_sum(a, t):
    for i in range(len(a)):
        for j in range(i + 1, len(a)):
            if a[i] + a[j] == t:
                return [i, j]
    return []
""",
        tests=(
            "assert two_sum([2, 7, 11], 9) == [0, 1]",
            "assert two_sum([3, 3], 6) == [0, 1]",
            "assert two_sum([1], 2) == []",
        ),
        rejected={
            "correctness": (
                '''
def two_sum(numbers: list[int], target: int) -> list[int]:
    """Return the indices of two numbers with that sum."""
    for index, number in enumerate(numbers):
        if target - number in numbers:
            return [index, numbers.index(target - number)]
    return []
''',
            ),
            "efficiency": (
                '''
def two_sum(numbers: list[int], target: int) -> list[int]:
    """Return the indices of two numbers with that sum."""
    for first in range(len(numbers)):
        for second in range(first + 1, len(numbers)):
            if numbers[first] + numbers[second] == target:
                return [first, second]
    return []
''',
            ),
        },
        sizes=("two_sum(list(range(9)), 15)", "two_sum(list(range(90)), 177)"),
    ),
    Task(
        name="chunk_list",
        phrasings=(
            "Write a function that splits a list into chunks.",
            "How do I write chunking a list in Python?",
            "Give me a Python function chunk_list.",
            "I need code for chunking a list: it splits a list into chunks.",
            "Implement chunking a list.",
            "Write a Python function for chunking a list",
            "Can you write code that splits a list into chunks?",
        ),
        solution='''
def chunk_list(items: list, size: int) -> list[list]:
    """Return consecutive parts of at most that size."""
    return [items[i:i + size] for i in range(0, len(items), size)]
''',
        naive="""
def chunk_list(a, n):
    r = []
    while a:
        r.append(a[:n])
        a = a[n:]
    return r
""",
        tests=(
            "assert chunk_list([1, 2, 3], 2) == [[1, 2], [3]]",
            "assert chunk_list([], 2) == []",
            "assert chunk_list([1, 2], 2) == [[1, 2]]",
        ),
        rejected={
            "correctness": (
                '''
def chunk_list(items: list, size: int) -> list[list]:
    """Return consecutive parts of at most that size."""
    return [items[i:i + size] for i in range(len(items))]
''',
                '''
def chunk_list(items: list, size: int) -> list[list]:
    """Return consecutive parts of at most that size."""
    return [items[:size], items[size:]]
''',
            ),
        },
    ),
    Task(
        name="second_largest",
        phrasings=(
            "Write a function that finds the second largest number.",
            "How do I write the second largest number in Python?",
            "Give me a Python function second_largest.",
            "I need code for the second largest number: it finds the second largest number.",
            "Implement the second largest number.",
            "Write a Python function for the second largest number",
            "Can you write code that finds the second largest number?",
        ),
        solution='''
def second_largest(numbers: list[int]) -> int:
    """Return the second largest distinct number."""
    return sorted(set(numbers))[-2]
''',
        naive="""
def second_largest(a):
    m = max(a)
    return max(x for x in a if x != m)
""",
        tests=(
            "assert second_largest([1, 3, 2]) == 2",
            "assert second_largest([5, 5, 4]) == 4",
            "assert second_largest([-1, -2]) == -2",
        ),
        rejected={
            "correctness": (
                '''
def second_largest(numbers: list[int]) -> int:
    """Return the second largest distinct number."""
    return sorted(numbers)[-2]
''',
                '''
def second_largest(numbers: list[int]) -> int:
    """Return the second largest distinct number."""
    return sorted(set(numbers))[1]
''',
            ),
        },
        held_out=True,
    ),
    Task(
        name="sum_even",
        phrasings=(
            "Write a function that sums the even numbers of a list.",
            "How do I write summing even numbers in Python?",
            "Give me a Python function sum_even.",
            "I need code for summing even numbers: it sums the even numbers of a list.",
            "Implement summing even numbers.",
            "Write a Python function for summing even numbers",
            "Can you write code that sums the even numbers of a list?",
        ),
        solution='''
def sum_even(numbers: list[int]) -> int:
    """Return the sum of the even numbers."""
    return sum(number for number in numbers if number % 2 == 0)
''',
        naive="""
def sum_even(a):
    s = 0
    for x in a:
        if x % 2 == 0:
            s += x
    return s
""",
        tests=(
            "assert sum_even([1, 2, 4]) == 6",
            "assert sum_even([]) == 0",
            "assert sum_even([-2, 3]) == -2",
        ),
        rejected={
            "correctness": (
                '''
def sum_even(numbers: list[int]) -> int:
    """Return the sum of the even numbers."""
    return sum(number for number in numbers if number % 2 == 1)
''',
                '''
def sum_even(numbers: list[int]) -> int:
    """Return the sum of the even numbers."""
    return len([number for number in numbers if number % 2 == 0])
''',
            ),
            "security": (
                '''
def sum_even(numbers: list[int]) -> int:
    """Return the sum of the even numbers."""
    return eval('+'.join(str(number) for number in numbers if number % 2 == 0) or '0')
''',
            ),
        },
    ),
    Task(
        name="invert_dict",
        phrasings=(
            "Write a function that swaps the keys and values of a dictionary.",
            "How do I write inverting a dictionary in Python?",
            "Give me a Python function invert_dict.",
            "I need code for inverting a dictionary: it swaps the keys and values of a dictionary.",
            "Implement inverting a dictionary.",
            "Write a Python function for inverting a dictionary",
            "Can you write code that swaps the keys and values of a dictionary?",
        ),
        solution='''
def invert_dict(mapping: dict) -> dict:
    """Return the mapping from values to keys."""
    return {value: key for key, value in mapping.items()}
''',
        naive="""
def invert_dict(d):
    r = {}
    for k in d:
        r[d[k]] = k
    return r
""",
        tests=(
            "assert invert_dict({'a': 1}) == {1: 'a'}",
            "assert invert_dict({}) == {}",
            "assert invert_dict({1: 2, 3: 4}) == {2: 1, 4: 3}",
        ),
        rejected={
            "correctness": (
                '''
def invert_dict(mapping: dict) -> dict:
    """Return the mapping from values to keys."""
    return {key: value for key, value in mapping.items()}
''',
                '''
def invert_dict(mapping: dict) -> dict:
    """Return the mapping from values to keys."""
    return {value: value for value in mapping.values()}
''',
            ),
        },
    ),
    Task(
        name="transpose",
        phrasings=(
            "Write a function that transposes a matrix.",
            "How do I write transposing a matrix in Python?",
            "Give me a Python function transpose.",
            "I need code for transposing a matrix: it transposes a matrix.",
            "Implement transposing a matrix.",
            "Write a Python function for transposing a matrix",
            "Can you write code that transposes a matrix?",
        ),
        solution='''
def transpose(matrix: list[list]) -> list[list]:
    """Return the matrix with rows and columns swapped."""
    return [list(column) for column in zip(*matrix)]
''',
        naive="""
def transpose(m):
    r = []
    for j in range(len(m[0])):
        r.append([row[j] for row in m])
    return r
""",
        tests=(
            "assert transpose([[1, 2], [3, 4]]) == [[1, 3], [2, 4]]",
            "assert transpose([[1, 2, 3]]) == [[1], [2], [3]]",
            "assert transpose([[5]]) == [[5]]",
        ),
        rejected={
            "correctness": (
                '''
def transpose(matrix: list[list]) -> list[list]:
    """Return the matrix with rows and columns swapped."""
    return [row[::-1] for row in matrix]
''',
                '''
def transpose(matrix: list[list]) -> list[list]:
    """Return the matrix with rows and columns swapped."""
    return [list(column) for column in zip(*matrix[::-1])]
''',
            ),
        },
    ),
    Task(
        name="running_sum",
        phrasings=(
            "Write a function that computes the running sums of a list.",
            "How do I write running sums in Python?",
            "Give me a Python function running_sum.",
            "I need code for running sums: it computes the running sums of a list.",
            "Implement running sums.",
            "Write a Python function for running sums",
            "Can you write code that computes the running sums of a list?",
        ),
        solution='''
def running_sum(numbers: list[int]) -> list[int]:
    """Return the sum up to each position."""
    sums, total = [], 0
    for number in numbers:
        total += number
        sums.append(total)
    return sums
''',
        naive="""
def running_sum(a):
    r = []
    for i in range(len(a)):
        r.append(sum(a[:i + 1]))
    return r
""",
        tests=(
            "assert running_sum([1, 2, 3]) == [1, 3, 6]",
            "assert running_sum([]) == []",
            "assert running_sum([5]) == [5]",
        ),
        rejected={
            "correctness": (
                '''
def running_sum(numbers: list[int]) -> list[int]:
    """Return the sum up to each position."""
    sums, total = [], 0
    for number in numbers:
        sums.append(total)
        total += number
    return sums
''',
            ),
            "efficiency": (
                '''
def running_sum(numbers: list[int]) -> list[int]:
    """Return the sum up to each position."""
    sums = []
    for end in range(len(numbers)):
        total = 0
        for position in range(end + 1):
            total += numbers[position]
        sums.append(total)
    return sums
''',
            ),
        },
        sizes=("running_sum([1, 2, 3])", "running_sum(list(range(40)))"),
    ),
    Task(
        name="is_sorted",
        phrasings=(
            "Write a function that checks whether a list is sorted.",
            "How do I write a sorted check in Python?",
            "Give me a Python function is_sorted.",
            "I need code for a sorted check: it checks whether a list is sorted.",
            "Implement a sorted check.",
            "Write a Python function for a sorted check",
            "Can you write code that checks whether a list is sorted?",
        ),
        solution='''
def is_sorted(numbers: list[int]) -> bool:
    """Return True if the numbers never fall."""
    return all(a <= b for a, b in zip(numbers, numbers[1:]))
''',
        naive="""
def is_sorted(a):
    for i in range(len(a) - 1):
        if a[i] > a[i + 1]:
            return False
    return True
""",
        tests=(
            "assert is_sorted([1, 2, 2])",
            "assert not is_sorted([2, 1])",
            "assert is_sorted([])",
            "assert not is_sorted([1, 3, 2, 4])",
        ),
        rejected={
            "correctness": (
                '''
def is_sorted(numbers: list[int]) -> bool:
    """Return True if the numbers never fall."""
    return all(a < b for a, b in zip(numbers, numbers[1:]))
''',
                '''
def is_sorted(numbers: list[int]) -> bool:
    """Return True if the numbers never fall."""
    return not numbers or numbers[0] <= numbers[-1]
''',
            ),
        },
    ),
    Task(
        name="sort_numbers",
        phrasings=(
            "Write a function that sorts a list of numbers.",
            "How do I write sorting numbers in Python?",
            "Give me a Python function sort_numbers.",
            "I need code for sorting numbers: it sorts a list of numbers.",
            "Implement sorting numbers.",
            "Write a Python function for sorting numbers",
            "Can you write code that sorts a list of numbers?",
        ),
        solution='''
def sort_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers in ascending order."""
    return sorted(numbers)
''',
        naive="""
def sort_numbers(a):
    a = list(a)
    a.sort()
    return a
""",
        tests=(
            "assert sort_numbers([3, 1, 2]) == [1, 2, 3]",
            "assert sort_numbers([]) == []",
            "assert sort_numbers([2, 2, 1]) == [1, 2, 2]",
        ),
        rejected={
            "correctness": (
                '''
def sort_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers in ascending order."""
    return sorted(numbers, reverse=True)
''',
                '''
def sort_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers in ascending order."""
    return sorted(set(numbers))
''',
            ),
            "efficiency": (
                '''
def sort_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers in ascending order."""
    ordered = list(numbers)
    for end in range(len(ordered)):
        for i in range(len(ordered) - 1 - end):
            if ordered[i] > ordered[i + 1]:
                ordered[i], ordered[i + 1] = ordered[i + 1], ordered[i]
    return ordered
''',
            ),
        },
        sizes=("sort_numbers([3, 1, 2])", "sort_numbers(list(range(40, 0, -1)))"),
        held_out=True,
    ),
)
