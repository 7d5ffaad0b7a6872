"""Six tools that a model can call, and the reading of its calls.

    for call in parse_calls(text):             # <tool_call>{"name": "execute_python", "arguments": {...}}</tool_call>
        answer = call.message if isinstance(call, ParseError) else tools.call(call["name"], call["arguments"])

Whatever the model writes, the answer is text to show it. Code runs in the sandbox, never in this process; a machine
without a sandbox raises UserError unless `unsafe=True`. `run_tests` runs code and tests in one process, so code that
sets out to forge the verdict can: believe it about careless code, not about hostile code.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxrlhf.agent.documentation import quoted, search_docs
from mlxrlhf.data import calls
from mlxrlhf.sandbox import runner
from mlxrlhf.tasks import quality
from mlxrlhf.tasks.answers import parse

LIMITS = runner.Limits(wall_seconds=4, cpu_seconds=5)  # the wall first: it says that the time was up
OUTPUT_CHARACTERS = 600
ANALYSED_CHARACTERS = 20_000  # the parser runs in this process


@dataclass(frozen=True)
class Program:
    """Code for the sandbox, and how its result reads as text."""

    source: str
    read: Callable[[runner.Result], str]
    shell: bool = False


@dataclass(frozen=True)
class Tool:
    """One tool. `function` takes the arguments by name and gives its text, or the program whose result is the text."""

    name: str
    description: str
    parameters: dict  # JSON schema
    function: Callable[..., str | Program]


@dataclass(frozen=True)
class ParseError:
    """A call that cannot be made; `message` is for the model."""

    message: str


# --- calling -------------------------------------------------------------------------------------------------------


def schemas(available: Mapping[str, Tool] | None = None) -> list[dict]:
    """The tools (default: the six) as a chat template takes them: OpenAI's function form."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in (available or TOOLS).values()
    ]


def format_call(name: str, arguments: Mapping) -> str:
    """The text with which an assistant makes this call."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}</tool_call>"


def parse_calls(
    text: str, available: Mapping[str, Tool] | None = None, form: str = "json"
) -> list[dict[str, Any] | ParseError]:
    """The calls of an assistant's text in order: {"name", "arguments"}, or an error for each that cannot be made.

    available: the tools on offer (default: the six). form: one of `calls`' forms.
    """
    parsed: list[dict[str, Any] | ParseError] = []
    for one in calls.read(text, form, schemas(available))[1]:
        if isinstance(one, calls.Malformed):
            parsed.append(ParseError(f"error: the tool call {one.reason}"))
        elif problem := _problem(one["name"], one["arguments"], available):
            parsed.append(ParseError(problem))
        else:
            parsed.append({"name": one["name"], "arguments": one["arguments"]})
    return parsed


def call(name: str, arguments: Mapping, unsafe: bool = False, available: Mapping[str, Tool] | None = None) -> str:
    """Make one call: at most about 600 characters of output, or what went wrong."""
    return call_many([(name, arguments)], unsafe=unsafe, available=available)[0]


def call_many(
    made: Sequence[tuple[str, Mapping]], unsafe: bool = False, available: Mapping[str, Tool] | None = None
) -> list[str]:
    """The same for many calls at once, in order; equal calls are made once."""
    outcomes: dict[object, str] = {}
    programs: dict[object, Program] = {}
    keys: list[object] = []
    for index, (name, arguments) in enumerate(made):
        if problem := _problem(name, arguments, available):
            keys.append(index)
            outcomes[index] = problem
            continue
        key = (name, json.dumps(dict(arguments), sort_keys=True))
        keys.append(key)
        if key in outcomes or key in programs:
            continue
        outcome = (available or TOOLS)[name].function(**arguments)
        if isinstance(outcome, Program):
            programs[key] = outcome
        else:
            outcomes[key] = outcome
    for shell, run in ((False, runner.run_many), (True, runner.run_many_bash)):
        chosen = {key: program for key, program in programs.items() if program.shell == shell}
        if not chosen:
            continue
        results = run([program.source for program in chosen.values()], limits=LIMITS, unsafe=unsafe)
        for ran, result in zip(chosen, results):
            outcomes[ran] = chosen[ran].read(result)
    return [_shortened(outcomes[key]) for key in keys]


def _problem(name, arguments, available: Mapping[str, Tool] | None = None) -> str | None:
    """What is wrong with this call, for the model; None when it can be made."""
    available = available or TOOLS
    if not isinstance(name, str) or name not in available:
        return f"error: no tool is named {quoted(name)}; the tools are {', '.join(available)}"
    properties = available[name].parameters["properties"]
    if not isinstance(arguments, Mapping):
        return f"error: the arguments of {name} must be an object with {', '.join(properties)}"
    for argument in available[name].parameters.get("required", ()):
        if argument not in arguments:
            return f"error: {name} needs the argument {argument}"
    for argument, value in arguments.items():
        if argument not in properties:
            return f"error: {name} has no argument {quoted(argument)}; it takes {', '.join(properties) or 'none'}"
        try:
            misfit = _misfit(value, properties[argument])
        except RecursionError:
            misfit = "", "is too deep"
        if misfit:
            return f"error: the argument {argument}{misfit[0]} of {name} {misfit[1]}"
    return None


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "string": (str, "a string"),
    "integer": (int, "an integer"),
    "number": ((int, float), "a number"),
    "boolean": (bool, "true or false"),
    "array": (list, "an array"),
    "object": (dict, "an object"),
    "null": (type(None), "null"),
}


def _misfit(value, schema: Mapping) -> tuple[str, str] | None:
    """Where a JSON value first departs from its schema ("[2]" inside it, "" itself), and what it should have been.

    Knows what transformers' get_json_schema writes: type, nullable, enum, anyOf, items, prefixItems and
    additionalProperties.
    """
    if value is None and schema.get("nullable"):
        return None
    if "anyOf" in schema:
        misfits = [misfit for one in schema["anyOf"] if (misfit := _misfit(value, one))]
        fits = len(misfits) < len(schema["anyOf"])
        return None if fits else ("", " or ".join(expected for _, expected in misfits))
    allowed = schema.get("type", ())
    kinds: Sequence[str] = [allowed] if isinstance(allowed, str) else allowed
    if kinds and not any(
        isinstance(value, _KINDS[k][0]) and (k == "boolean" or not isinstance(value, bool)) for k in kinds
    ):
        return "", "must be " + " or ".join(_KINDS[k][1] for k in kinds)
    if "enum" in schema and value not in schema["enum"]:
        return "", "must be one of " + ", ".join(map(str, schema["enum"]))
    if isinstance(value, float) and not math.isfinite(value):
        return "", "must be a finite number"
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= character <= "\udfff" for character in value)):
        return "", "holds a character that is not text"
    parts: list[tuple[str, object, Mapping]] = []
    if isinstance(value, list):
        fixed = schema.get("prefixItems")
        if fixed and len(value) != len(fixed):
            return "", f"must have {len(fixed)} items"
        parts = [(f"[{i}]", item, fixed[i] if fixed else schema.get("items", {})) for i, item in enumerate(value)]
    elif isinstance(value, dict):
        inside = schema.get("additionalProperties", {})
        parts = [(f"[{quoted(key)}]", item, inside) for key, item in value.items()]
        parts += [("", key, {}) for key in value]
    for place, part, one in parts:
        if misfit := _misfit(part, one):
            return place + misfit[0], misfit[1]
    return None


def _shortened(text: str) -> str:
    if len(text) <= OUTPUT_CHARACTERS:
        return text
    kept = OUTPUT_CHARACTERS - 40
    return f"{text[:kept]}\n... ({len(text) - kept} more characters)"


# --- running code --------------------------------------------------------------------------------------------------


def execute_python(code: str) -> Program:
    """What the code prints, then its error with the line."""

    def read(result: runner.Result) -> str:
        if result.ok:
            return _joined(result.stdout, result.stderr) or "(no output)"
        error, line = _python_error(result)
        return _joined(result.stdout, error + (f" (line {line})" if line else ""))

    return Program(code, read)


def execute_bash(command: str) -> Program:
    """What the command prints, and its exit code where that is not 0."""

    def read(result: runner.Result) -> str:
        # How the shell names itself in messages depends on how it was found.
        printed = _joined(result.stdout, re.sub(r"^\S*/(bash|sh): ", r"\1: ", result.stderr, flags=re.MULTILINE))
        if result.ok:
            return printed or "(no output)"
        return _joined(printed, _early_end(result) or f"exit code {result.returncode}")

    return Program(command, read, shell=True)


def debug_code(code: str) -> Program:
    """The error and the source line it points to, or "no error" and the output."""

    def read(result: runner.Result) -> str:
        if result.ok:
            return _joined("no error", result.stdout)
        error, line = _python_error(result)
        lines = code.splitlines()
        return _joined(error, f"line {line}: {lines[line - 1].strip()}" if line and line <= len(lines) else "")

    return Program(code, read)


_TESTER = """
import ast, sys, traceback, types
code, tests = {code!r}, {tests!r}
out, sys.stdout = sys.stdout, sys.stderr
module = types.ModuleType("solution")
sys.modules["solution"] = module
space = module.__dict__

def fail(what, error):
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "solution"]
    if isinstance(error, SyntaxError) and error.filename == "solution":
        lines = [error.lineno]
        error = error.msg if type(error) is SyntaxError else error
        text = "SyntaxError: " + str(error)
    else:
        text = type(error).__name__ + (": " + str(error) if str(error) else "")
    print("failed:", what + "\\n" + text + (f" (line {{lines[-1]}})" if lines else ""), file=out, flush=True)
    raise SystemExit(1)

try:
    exec(compile(code, "solution", "exec"), space)
except BaseException as error:
    fail("the code does not run", error)
try:
    statements = ast.parse(tests).body
except Exception as error:
    fail("the tests cannot be read", error)

def run(statement):
    value = None
    test = statement.test if isinstance(statement, ast.Assert) else None
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
        expression = ast.Expression(test.left)
        space["_got"] = value = eval(compile(expression, "tests", "eval"), space)
        test.left = ast.copy_location(ast.Name("_got", ast.Load()), test.left)
    try:
        exec(compile(ast.Module([statement], []), "tests", "exec"), space)
    except AssertionError as error:
        if "_got" in space and not error.args:
            error.args = ("got " + repr(value),)
        raise
    finally:
        space.pop("_got", None)

passed = 0
for statement in statements:
    what = ast.unparse(statement).splitlines()[0]
    try:
        run(statement)
        passed += isinstance(statement, ast.Assert)
    except BaseException as error:
        fail(what, error)
for name, function in list(space.items()):
    if name.startswith("test_") and isinstance(function, types.FunctionType):
        try:
            function()
            passed += 1
        except BaseException as error:
            fail(name, error)
print(f"{{passed}} passed" if passed else "no tests found", file=out, flush=True)
"""


def run_tests(code: str, tests: str) -> Program:
    """ "N passed", or the first assert that fails and its error; functions named test_... count as one test each."""

    def read(result: runner.Result) -> str:
        verdict = result.stdout.strip()
        return verdict or f"failed: {_early_end(result) or 'the code ended the run'}"

    return Program(_TESTER.format(code=code, tests=tests), read)


def _joined(*parts: str) -> str:
    return "\n".join(part.rstrip() for part in parts if part.strip())


def _early_end(result: runner.Result) -> str:
    if result.timed_out:
        return f"timed out after {LIMITS.wall_seconds:g} seconds"
    if result.truncated:
        return "stopped for printing too much"
    if result.returncode < 0:
        return f"killed by signal {-result.returncode}"
    return ""


def _python_error(result: runner.Result) -> tuple[str, int | None]:
    """The line that names the error, and the last line of the snippet in its traceback."""
    if early := _early_end(result):
        return early, None
    last = result.stderr.rpartition("Traceback (most recent call last):\n")[2]
    lines = [int(number) for number in re.findall(r'^\s+File "(?:[^"]*/)?main\.py", line (\d+)', last, re.MULTILINE)]
    errors = re.findall(r"^[A-Za-z_][\w.]*(?:: .*)?$", last, re.MULTILINE)
    if not lines or not errors:
        return _joined(result.stderr, f"exit code {result.returncode}"), None
    return errors[0], lines[-1]


# --- reading code --------------------------------------------------------------------------------------------------

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def analyze_code(code: str) -> str:
    """The syntax error with its line, or functions with their complexity, missing docstrings, insecure patterns."""
    if len(code) > ANALYSED_CHARACTERS:
        return f"error: the code is longer than {ANALYSED_CHARACTERS} characters"
    tree = parse(code)
    if isinstance(tree, SyntaxError):
        return f"syntax error on line {tree.lineno}: {tree.msg}"
    if tree is None:
        return "error: the code cannot be parsed"
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, _FUNCTIONS)]
    bare = [
        node.name for node in nodes if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not ast.get_docstring(node)
    ]
    complexities = [f"{function.name} (complexity {quality.complexity(function)})" for function in functions]
    insecure = [f"{what} on line {line}" for line, what in quality.insecure(tree)]
    return "\n".join(
        [
            "functions: " + (", ".join(complexities) or "none"),
            "missing docstring: " + (", ".join(bare) or "none"),
            "insecure: " + (", ".join(insecure) or "none"),
        ]
    )


# --- the tools -----------------------------------------------------------------------------------------------------


def _tool(function: Callable[..., str | Program], description: str, **arguments: str) -> Tool:
    properties = {name: {"type": "string", "description": text} for name, text in arguments.items()}
    return Tool(
        function.__name__,
        description,
        {"type": "object", "properties": properties, "required": list(arguments)},
        function,
    )


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        _tool(execute_python, "Run Python code and return what it prints.", code="Python source"),
        _tool(execute_bash, "Run a shell command and return what it prints.", command="shell command"),
        _tool(search_docs, "Search Python's documentation and return the best page's beginning.", query="a few words"),
        _tool(
            analyze_code,
            "Report syntax errors, complexity, missing docstrings and insecure patterns without running the code.",
            code="Python source",
        ),
        _tool(
            run_tests,
            "Run assert statements against code and report the first that fails.",
            code="Python source",
            tests="assert statements, one a line",
        ),
        _tool(debug_code, "Run code and return its error with the line at fault.", code="Python source"),
    )
}
