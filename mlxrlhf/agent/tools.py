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
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlxrlhf.agent.documentation import quoted, search_docs
from mlxrlhf.sandbox import runner

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


_SPACE = re.compile(r"\s*")


def parse_calls(text: str, available: Mapping[str, Tool] | None = None) -> list[dict | ParseError]:
    """The calls of an assistant's text in order: {"name", "arguments"}, or an error for each that cannot be made.

    available: the tools on offer (default: the six).
    """
    opening, closing = "<tool_call>", "</tool_call>"
    decoder, found, at = json.JSONDecoder(), [], 0
    while (start := text.find(opening, at)) >= 0:
        at = _SPACE.match(text, start + len(opening)).end()
        try:
            value, end = decoder.raw_decode(text, at)  # its own end: a string may contain the closing tag
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too large"
            found.append(ParseError(f"error: the tool call is not valid JSON: {reason}"))
            end = text.find(closing, at)
            at = end if end >= 0 else at
            continue
        at = _SPACE.match(text, end).end()
        if not text.startswith(closing, at):
            found.append(ParseError(f"error: the tool call does not end with {closing}"))
        elif not isinstance(value, dict) or set(value) != {"name", "arguments"}:
            found.append(ParseError('error: a tool call has the keys "name" and "arguments"'))
        elif problem := _problem(value["name"], value["arguments"], available):
            found.append(ParseError(problem))
        else:
            found.append(value)
    return found


def call(name: str, arguments: Mapping, unsafe: bool = False, available: Mapping[str, Tool] | None = None) -> str:
    """Make one call: at most about 600 characters of output, or what went wrong."""
    return call_many([(name, arguments)], unsafe=unsafe, available=available)[0]


def call_many(
    calls: Sequence[tuple[str, Mapping]], unsafe: bool = False, available: Mapping[str, Tool] | None = None
) -> list[str]:
    """The same for many calls at once, in order; equal calls are made once."""
    outcomes: dict[object, str | Program] = {}
    keys: list[object] = []
    for index, (name, arguments) in enumerate(calls):
        if problem := _problem(name, arguments, available):
            keys.append(index)
            outcomes[index] = problem
            continue
        keys.append((name, json.dumps(dict(arguments), sort_keys=True)))
        if keys[-1] not in outcomes:
            outcomes[keys[-1]] = (available or TOOLS)[name].function(**arguments)
    for shell, run in ((False, runner.run_many), (True, runner.run_many_bash)):
        programs = {
            key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Program) and outcome.shell == shell
        }
        if not programs:
            continue
        results = run([program.source for program in programs.values()], limits=LIMITS, unsafe=unsafe)
        for (key, program), result in zip(programs.items(), results):
            outcomes[key] = program.read(result)
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


_KINDS = {
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
        misfits = [_misfit(value, one) for one in schema["anyOf"]]
        return None if None in misfits else ("", " or ".join(expected for _, expected in misfits))
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
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

_INSECURE_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "marshal.loads",
    "tempfile.mktemp",
    "hashlib.md5",
    "hashlib.sha1",
    "ssl._create_unverified_context",
}
_SECRET = re.compile(r"password|passwd|secret|token|api_?key", re.IGNORECASE)
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.match_case)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def analyze_code(code: str) -> str:
    """The syntax error with its line, or functions with their complexity, missing docstrings, insecure patterns.

    Complexity is McCabe's: 1, and 1 for each branch, loop, handler and further operand of and/or.
    """
    if len(code) > ANALYSED_CHARACTERS:
        return f"error: the code is longer than {ANALYSED_CHARACTERS} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
        nodes = list(ast.walk(tree))
        functions = [node for node in nodes if isinstance(node, _FUNCTIONS)]
        imported = _imported(nodes)
        insecure = sorted({(node.lineno, what) for node in nodes if (what := _insecure(node, imported))})
    except SyntaxError as error:
        return f"syntax error on line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError):
        return "error: the code cannot be parsed"
    bare = [
        node.name for node in nodes if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not ast.get_docstring(node)
    ]
    return "\n".join(
        [
            "functions: "
            + (", ".join(f"{node.name} (complexity {_complexity(node)})" for node in functions) or "none"),
            "missing docstring: " + (", ".join(bare) or "none"),
            "insecure: " + (", ".join(f"{what} on line {line}" for line, what in insecure) or "none"),
        ]
    )


def _complexity(function: ast.AST) -> int:
    total, waiting = 1, list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, _FUNCTIONS):
            continue  # counted by itself
        total += isinstance(node, _BRANCHES) + (len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0)
        total += len(node.ifs) if isinstance(node, ast.comprehension) else 0
        waiting += ast.iter_child_nodes(node)
    return total


def _imported(nodes: list[ast.AST]) -> dict[str, str]:
    """Local name -> full dotted name."""
    names = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _insecure(node: ast.AST, imported: dict[str, str]) -> str | None:
    if isinstance(node, ast.Assign):
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) and node.value.value
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return "hard-coded secret" if text and any(_SECRET.search(name) for name in names) else None
    if not isinstance(node, ast.Call):
        return None
    first, dot, rest = _dotted(node.func).partition(".")
    name = imported.get(first, first) + dot + rest
    options = {option.arg: option.value for option in node.keywords}

    def given(option: str, value) -> bool:
        return isinstance(options.get(option), ast.Constant) and options[option].value is value

    if name in _INSECURE_CALLS:
        return name
    if name.startswith("subprocess.") and given("shell", True):
        return "shell=True"
    if given("verify", False):
        return "verify=False"
    if name == "yaml.load" and "Loader" not in options and len(node.args) < 2:
        return "yaml.load"
    if name.endswith(".execute") and node.args and isinstance(node.args[0], (ast.JoinedStr, ast.BinOp)):
        return "SQL built from text"
    return None


def _dotted(node: ast.AST) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "", *reversed(parts)])


# --- documentation -------------------------------------------------------------------------------------------------


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
