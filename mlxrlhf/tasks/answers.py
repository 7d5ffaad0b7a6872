"""An answer and the code in it."""

from __future__ import annotations

import ast
import re
import warnings

_FENCE = re.compile(r"```[ \t]*(?:python[\d.]*|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


def format_answer(code: str) -> str:
    """The form in which an assistant answers with code: one fenced block and nothing else."""
    return f"```python\n{code.strip()}\n```"


def extract_code(answer: str) -> str:
    """The code of an answer: its first fenced block (open-ended when truncated), or the whole text without one."""
    found = _FENCE.search(answer)
    return (found.group(1) if found else answer).strip("\n")


def parse(code: str) -> ast.Module | SyntaxError | None:
    """The syntax tree of code that nobody has read, or its syntax error; None for what no parser can take.

    Nothing else is raised: Python gives up on deep nesting in several ways, and on bytes that are no text in another.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for "\d" in a plain string: it is not our code
            return ast.parse(code)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return None


def strip_documentation(code: str) -> str:
    """The same program without docstrings and type hints, as `ast.unparse` writes it."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            arguments = node.args
            for argument in (
                *arguments.posonlyargs,
                *arguments.args,
                *arguments.kwonlyargs,
                arguments.vararg,
                arguments.kwarg,
            ):
                if argument is not None:
                    argument.annotation = None
    return ast.unparse(ast.fix_missing_locations(tree))
