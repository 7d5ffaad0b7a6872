"""The task bank: one file per task, in cells that start with `# %%`.

    # %% phrasings                 comment lines, each a way to ask
    # %% held out                  the whole task is kept for evaluation; this cell is empty
    # %% solution                  the chosen answer
    # %% naive                     a correct but bare one
    # %% rejected: CRITERION       a worse answer, as often as wanted; CRITERION is one of `task.CRITERIA`
    # %% tests                     assert statements
    # %% sizes                     two calls, a small and a large one, at which operations are counted

The files are read as text, never imported: they define the same function several times, and some of it is wrong or
dangerous on purpose. They are real Python so that an editor and a linter help. The formatter leaves them alone: the
layout of a rejected answer may be what is wrong with it.

To add a task, write NAME.py and put NAME in its place below.
"""

#: in the order in which `load_tasks` gives them: what is drawn with a seed depends on it, so new names go to the end
NAMES = (
    # on numbers
    "is_prime",
    "factorial",
    "fibonacci",
    "gcd",
    "sum_digits",
    "is_even",
    "is_leap_year",
    "power",
    "celsius_to_fahrenheit",
    "clamp",
    "evaluate_expression",
    # on divisors, digits and averages
    "lcm",
    "count_primes",
    "prime_factors",
    "digital_root",
    "divisors",
    "collatz_steps",
    "is_perfect_square",
    "is_armstrong",
    "to_binary",
    "reverse_integer",
    "mean",
    "median",
    "percentage_change",
    "moving_average",
    "count_set_bits",
    # on strings, parsing and the system
    "reverse_string",
    "is_palindrome",
    "count_vowels",
    "word_count",
    "is_anagram",
    "capitalize_words",
    "longest_word",
    "remove_vowels",
    "caesar_cipher",
    "parse_list",
    "read_json",
    "snake_to_camel",
    "camel_to_snake",
    "run_length_encode",
    "compress_spaces",
    "first_unique_character",
    "is_valid_email",
    "is_safe_path",
    "run_command",
    "hash_password",
    "escape_html",
    "balanced_brackets",
    # on lists and dictionaries
    "find_max",
    "remove_duplicates",
    "flatten",
    "binary_search",
    "merge_sorted",
    "two_sum",
    "chunk_list",
    "second_largest",
    "sum_even",
    "invert_dict",
    "transpose",
    "running_sum",
    "is_sorted",
    "sort_numbers",
)
