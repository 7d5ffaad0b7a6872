"""A reward function in a user's file."""

from __future__ import annotations

import importlib.util
import inspect
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlxrlhf.errors import UserError


class UserFunction:
    """A reward function in a user's file. Whatever goes wrong in it becomes a UserError with file and line."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        if not path.is_file():
            raise UserError(f"--reward {path}:{name}: there is no file {path}")
        spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise self._blame(error) from None
        function = getattr(module, name, None)
        if not inspect.isfunction(function):
            raise UserError(f"--reward {path}:{name}: {path} defines no function {name}")
        self.function, self.line = function, function.__code__.co_firstlineno
        parameters = inspect.signature(function).parameters
        self.batched = next(iter(parameters), "") == "prompts"
        takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
        self.wanted = None if takes_all else set(parameters)

    def __call__(self, rows: Sequence[dict], responses: Sequence[str]) -> np.ndarray:
        """One number for each response, (B,) float32."""
        rest = [
            {k: v for k, v in row.items() if k != "prompt" and (self.wanted is None or k in self.wanted)}
            for row in rows
        ]
        prompts = [row["prompt"] for row in rows]
        try:
            if self.batched:
                names = dict.fromkeys(name for row in rest for name in row)
                values = self.function(prompts, list(responses), **{n: [row.get(n) for row in rest] for n in names})
            else:
                values = [self.function(p, r, **row) for p, r, row in zip(prompts, responses, rest)]
        except Exception as error:
            raise self._blame(error) from None
        try:
            numbers = np.array([float(value) for value in values], np.float32)
        except (TypeError, ValueError):
            numbers = np.array([np.nan])
        if numbers.shape != (len(rows),) or not np.isfinite(numbers).all():
            raise UserError(
                f"{self.path}:{self.line}: {self.name} must return "
                + ("a list with one finite number for each response" if self.batched else "one finite number")
            )
        return numbers

    def _blame(self, error: Exception) -> UserError:
        """The sentence for an exception: the last line of the user's file that was running."""
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            return UserError(f"{self.path}:{error.lineno}: {error.msg}")
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).resolve() == self.path.resolve()
        ]
        line = lines[-1] if lines else getattr(self, "line", 1)
        return UserError(f"{self.path}:{line}: {type(error).__name__}: {error}")
