"""An answer and the code in it."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterable, Iterator

from markdown_it import MarkdownIt

from mlxrlhf.data.template import split_reasoning

#: Fences as Markdown has them, in lists and quotes too; what else an indentation or a tag may mean hides no code.
_MARKDOWN = MarkdownIt("commonmark").disable(["inline", "code", "html_block"])
_PYTHON = re.compile(r"\W*(python|py|ipython)[\d.]*\b", re.IGNORECASE)
_NESTED = re.compile(r"\W*(markdown|md)\b", re.IGNORECASE)


def format_answer(code: str) -> str:
    """The form in which an assistant answers with code: one fenced block and nothing else."""
    return f"```python\n{code.strip()}\n```"


def extract_code(answer: str, names: Collection[str] = ()) -> str:
    """The code of an answer that was asked to define `names` (none: anything).

    Of its fenced blocks in Python, or without a language, the one that defines most of the names, the last such. Where
    none does: the last Python block that defines a function or class, the last Python block, the same of the blocks
    without a language, and the whole text. Blocks in other languages and reasoning are not looked at.
    """
    answer = split_reasoning(answer)[1]
    blocks = _blocks(answer)
    counts = [sum(_defines(code, name) for name in names) for _, code in blocks]
    if any(counts):
        return [code for (_, code), count in zip(blocks, counts) if count == max(counts)][-1]
    python = [code for tagged, code in blocks if tagged]
    if candidates := python or [code for _, code in blocks]:
        return ([code for code in candidates if _DEFINITION.search(code)] or candidates)[-1]
    return answer.strip("\n")


def _blocks(answer: str) -> list[tuple[bool, str]]:
    """The fenced blocks in Python (True) and those without a language (False), in order and without their fences."""
    blocks: list[tuple[bool, str]] = []
    for token in _MARKDOWN.parse(answer):
        if token.type != "fence":
            continue
        if _NESTED.match(token.info):  # the whole answer was put into one fence
            blocks += _blocks(token.content)
        elif _PYTHON.match(token.info) or not token.info.strip():
            blocks.append((bool(token.info.strip()), token.content.strip("\n")))
    return blocks


_DEFINITION = re.compile(r"^(async[ \t]+def|def|class)[ \t]", re.MULTILINE)


def _defines(code: str, name: str) -> bool:
    """Whether code binds the name at its top level; by its text, as the code may be cut off."""
    definition = (
        rf"^(?:(?:async[ \t]+def|def|class)[ \t]+{re.escape(name)}\b|{re.escape(name)}[ \t]*(?::[^=\n]+)?=(?!=))"
    )
    return re.search(definition, code, re.MULTILINE) is not None


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


def names_bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names that these nodes give a value to, or take away."""
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


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
