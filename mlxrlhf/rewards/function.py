"""A reward function in a user's file.

It may take one response, `f(prompt, response, **row)`, or all of them, `f(prompts, responses, **rows)` or, as TRL has
it, `f(prompts, completions, **rows)` with or without prompts; it may be async. It returns one finite number for each
response, or None to abstain. Fields of the rows that are called like its own arguments (prompt, response, ...) are not
passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxrlhf.errors import UserError

#: a function that takes longer is named on stderr, so that nobody looks for the fault elsewhere
SLOW_SECONDS = 10.0


class UserFunction:
    """A reward function in a user's file. Whatever goes wrong in it becomes a UserError with file and line."""

    def __init__(self, path: Path, name: str):
        self.path, self.name, self.line = path, name, 1
        self._named_as_slow = False
        self.function = self._load()
        self.line = self.function.__code__.co_firstlineno
        if inspect.isasyncgenfunction(self.function):
            raise UserError(f"{path}:{self.line}: {name} is an async generator; return the numbers instead of yielding")
        parameters = inspect.signature(self.function).parameters
        self.completions = "completions" in parameters
        self.batched = self.completions or next(iter(parameters), "") == "prompts"
        takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
        #: the fields of a row that it is given; None: all that do not collide with its own arguments
        self.fields = None if takes_all else set(parameters)
        named = [p.name for p in parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
        self.own_arguments = {"prompt", "prompts", "completions", *([] if self.completions else named[:2])}

    def __call__(self, rows: Sequence[dict], responses: Sequence[str]) -> np.ndarray:
        """One number for each response, (B,) float32; NaN where the function abstains."""
        if not rows:
            return np.zeros(0, np.float32)
        with self._watched(), self._guarded():
            result = self._values(rows, responses)
            values = list(result) if isinstance(result, Iterable) else None
        if values is None:
            raise self._wrong_value(f"{result!r:.40}")
        numbers = np.array([self._number(value) for value in values], np.float32)
        if numbers.shape != (len(rows),):
            raise self._wrong_value(f"{len(numbers)} values for {len(rows)} responses")
        return numbers

    def _values(self, rows: Sequence[dict], responses: Sequence[str]) -> Any:
        """What the function returns for each response, as a list unless the function is mistaken."""
        fields = [self._fields(row) for row in rows]
        prompts = [row["prompt"] for row in rows]
        if not self.batched:
            values = [self.function(*pair, **row) for *pair, row in zip(prompts, responses, fields)]
            return asyncio.run(_gathered(values)) if inspect.iscoroutinefunction(self.function) else values
        names = dict.fromkeys(name for row in fields for name in row)
        columns = {name: [row.get(name) for row in fields] for name in names}
        if self.completions:
            columns["completions"] = [_completion(*pair) for pair in zip(prompts, responses)]
            if self.fields is None or "prompts" in self.fields:
                columns["prompts"] = prompts
            result = self.function(**columns)
        else:
            result = self.function(prompts, list(responses), **columns)
        return asyncio.run(_result(result)) if inspect.iscoroutinefunction(self.function) else result

    def _fields(self, row: dict) -> dict:
        """The fields of a row that the function is given."""
        return {
            key: value
            for key, value in row.items()
            if key not in self.own_arguments and (self.fields is None or key in self.fields)
        }

    def _number(self, value: Any) -> float:
        if value is None:
            return np.nan
        try:
            number = np.nan if isinstance(value, (str, bytes)) else float(value)
        except Exception:
            number = np.nan
        if not abs(number) <= float(np.finfo(np.float32).max):
            raise self._wrong_value(f"{value!r:.40}")
        return number

    def _wrong_value(self, given: str) -> UserError:
        wanted = "a list with one finite number for each response" if self.batched else "one finite number"
        return UserError(f"{self.path}:{self.line}: {self.name} must return {wanted}, or None to abstain, not {given}")

    # --- what goes wrong in it ---------------------------------------------------------------------------------------

    def _load(self) -> Any:
        if not self.path.is_file():
            raise UserError(f"--reward {self.path}:{self.name}: there is no file {self.path}")
        spec = importlib.util.spec_from_file_location(f"reward_{self.path.stem}", self.path)
        if spec is None or spec.loader is None:
            raise UserError(f"--reward {self.path}:{self.name}: {self.path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their names up there
        folder = str(self.path.resolve().parent)
        if folder not in sys.path:
            sys.path.append(folder)  # it may import its neighbours; at the end, so that none hides a library
        with self._guarded():
            spec.loader.exec_module(module)
        function = getattr(module, self.name, None)
        if not inspect.isfunction(function):
            raise UserError(f"--reward {self.path}:{self.name}: {self.path} defines no function {self.name}")
        return function

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """What the user's code does to this process is undone or becomes a UserError: an exit, a change of folder."""
        folder, process, end = os.open(".", os.O_RDONLY), os.getpid(), os._exit

        def refused(status: int) -> None:
            if os.getpid() != process:
                end(status)  # a child of its own
            raise _Exit(f"it calls os._exit({status})")

        os._exit = refused  # type: ignore[assignment]
        try:
            yield
        except (KeyboardInterrupt, UserError):
            raise
        except SystemExit as error:
            raise self._blame(error, f"it calls sys.exit({error.code!r})") from None
        except BaseException as error:
            raise self._blame(error, _text(error)) from None
        finally:
            os._exit = end
            os.fchdir(folder)
            os.close(folder)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Says on stderr, once, that the function takes long."""

        def say() -> None:
            self._named_as_slow = True
            message = f"--reward {self.path}:{self.name} has been running for {SLOW_SECONDS:g} seconds; the run waits"
            print(message, file=sys.stderr, flush=True)

        timer = threading.Timer(SLOW_SECONDS, say)
        timer.daemon = True
        if not self._named_as_slow:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _blame(self, error: BaseException, what: str) -> UserError:
        """The sentence for an exception: the last line of the user's file that was running."""
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            return UserError(f"{self.path}:{error.lineno}: {error.msg}")
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == self.path.resolve()
        ]
        return UserError(f"{self.path}:{lines[-1] if lines else self.line}: {what}")


class _Exit(BaseException):
    """In place of os._exit; a BaseException, so that no `except Exception` of the user's hides it."""


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, _Exit) else f"{type(error).__name__}: {error}"


def _completion(prompt: str | list[dict], response: str) -> str | list[dict]:
    """A response as TRL has it: text behind text, messages behind messages."""
    return response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]


async def _gathered(values: Iterable[Awaitable]) -> list:
    return list(await asyncio.gather(*values))


async def _result(value: Awaitable) -> Any:
    return await value
