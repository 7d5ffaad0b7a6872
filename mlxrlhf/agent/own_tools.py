"""A user's own tools: the functions of a Python file, with type hints and docstrings.

    def weather(city: str, days: int = 1) -> str:
        '''Look up the weather.

        Args:
            city: name of the city
            days: how many days ahead
        '''

They run in this process with all the rights of the user: nothing stands between them and the machine, unlike the six
tools of `tools.py`, which run in the sandbox.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

from mlxrlhf.agent.tools import TOOLS, Tool
from mlxrlhf.errors import UserError


def load(path: Path) -> dict[str, Tool]:
    """The functions that a file defines as tools, by name; a name that starts with _ is none.

    Raises UserError naming file and line: for a file that does not run, and for a function without type hints, without
    a docstring, or whose docstring leaves an argument out.
    """
    path = Path(path)
    try:
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise UserError(f"--tools {path} cannot be read ({error.strerror}); give a Python file of functions") from None
    except UnicodeDecodeError:
        raise UserError(f"--tools {path} is not UTF-8 text; give a Python file of functions") from None
    except (SyntaxError, ValueError) as error:
        raise UserError(
            f"{path}:{getattr(error, 'lineno', 1)} is not Python ({getattr(error, 'msg', error)}); correct it"
        ) from None
    module = types.ModuleType("own_tools")
    module.__file__ = str(path)
    sys.modules["own_tools"] = module  # dataclasses and type hints look their names up there
    # The file may import its neighbours, as a script may; they never stand before a module that this program needs.
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    try:
        exec(code, module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"{_place(error, path)} raises {_named(error)}; correct it") from None
    tools = {
        name: _tool(function, path)
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == "own_tools"
        and name == function.__name__
        and not name.startswith("_")
    }
    if not tools:
        raise UserError(f"{path} defines no function; write one with type hints and a docstring")
    return tools


def _tool(function: Callable, path: Path) -> Tool:
    """The tool of one function; its schema is made by transformers, which asks for a Google-style docstring."""
    from transformers.utils.chat_template_utils import (
        DocstringParsingException,
        TypeHintParsingException,
        get_json_schema,
    )

    name, place = function.__name__, f"{path}:{inspect.unwrap(function).__code__.co_firstlineno}"
    if name in TOOLS:
        raise UserError(f"{place}: {name} is the name of a tool that there is already; choose another")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UserError(f"{place}: {name} is async; write a plain function")
    if not (function.__doc__ or "").strip():
        raise UserError(
            f"{place}: {name} has no docstring; say what it does and describe each argument under Args:, "
            "or start its name with _ if it is no tool"
        )
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserError(f"{place}: {name} takes {parameter}; a tool's arguments are passed by name, one by one")
        if parameter.annotation is parameter.empty:
            raise UserError(
                f"{place}: the argument {parameter.name} of {name} has no type hint; write "
                f"{parameter.name}: str, or whatever it is"
            )
    try:
        schema = get_json_schema(function)["function"]
    except DocstringParsingException as error:
        raise UserError(f"{place}: {error}; add a line for it under Args:") from None
    except (TypeHintParsingException, NameError, TypeError) as error:
        reason = str(error).partition(". ")[0].split(", likely")[0]
        raise UserError(
            f"{place}: a type hint of {name} cannot be offered to a model ({reason}); use str, int, float, "
            "bool, list, dict, Literal or Optional of those"
        ) from None
    return Tool(name, schema["description"], schema["parameters"], _guarded(function, path))


def _guarded(function: Callable, path: Path) -> Callable[..., str]:
    """The function with its result as text; when it raises, the text says what and where."""

    def run(**arguments) -> str:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is the model's
                value = function(**arguments)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            text = "" if value is None else text
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = f"error: {_named(error)} ({_place(error, path)})"
        return text.encode("utf-8", "replace").decode() or "(no output)"

    return run


def _named(error: BaseException) -> str:
    return type(error).__name__ + (f": {error}" if str(error) else "")


def _place(error: BaseException, path: Path) -> str:
    """file:line of the last frame in the user's file."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
