"""Every command in README.md and docs/ is run, in the order a reader meets it.

A page is read from top to bottom in a folder of its own. Commands stand in ```sh blocks or in indented ones. They run
as written, but for flags appended that make them small (SMALL), and for models of a hub, in whose place stands a random
one. A comment before a block says what the page cannot:

    <!-- test: parsed, because a person must be there -->     flags and values are read, nothing is run
    <!-- test: --steps-per-epoch 3 -->                        flags appended to each command of the block
    <!-- file: pairs.jsonl -->                                the block (of any language) is that file's content

and one anywhere on a page says that its reader has been elsewhere before:

    <!-- test: after README.md -->

Commands in running text (`mlxrlhf ...`) are parsed. What other programs are called is checked against OTHERS.
"""

import itertools
import json
import os
import re
import shlex
import signal
import time
import urllib.request
from dataclasses import dataclass

import pytest
from helpers import ROOT, mlxrlhf, start

from mlxrlhf.models import published

PAGES = sorted(["README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))])
#: appended to a command: small, and on the backend that is there
SMALL = {
    "prepare": "--max-characters 150000 --dialogues 20 --pairs 40",
    "pretrain": "--steps-per-epoch 2 --batch-size 2 --sequence-length 64 --eval-batches 1",
    "finetune": "--steps-per-epoch 2 --batch-size 2 --sequence-length 512 --eval-batches 1",
    "reward": "--num-epochs 1 --samples 0",
    "ppo": "--steps-per-epoch 1 --batch-size 2 --mini-batch-size 2 --ppo-epochs 1 --max-tokens 4",
    "grpo": "--steps-per-epoch 1 --batch-size 1 --responses-per-prompt 2 --mini-batch-size 2 --max-tokens 4",
    "dpo": "--num-epochs 1 --batch-size 2",
    "evaluate": "--max-prompts 2 --max-tokens 4 --samples 1",
    "chat": "--max-tokens 4",
    "export": "--eval-tokens 0",
}
#: parsed, not run: it needs the network
NETWORK = re.compile(r"\bhub:|\bregistry\b|reasoning-gym|package:|--suite (all|humaneval)")
#: how a line of an indented block starts, if it is a command and not part of a tree or a table
COMMANDS = {"make", "open", "mlxrlhf", ".venv/bin/mlxrlhf", "mlx.launch", "torchrun"}
#: programs that are no concern of this test
OTHERS = set("git cd open source python3 pip .venv/bin/pip ollama lms llama-cli llama-server curl brew uv".split())
#: in a command of running text, a word for the reader to replace
PLACEHOLDER = re.compile(r"\b[A-Z]+\b|…|\.\.\.")
MINE = '''def shout(text: str) -> str:
    """Upper case.

    Args:
        text: what to shout
    """
    return text.upper()
'''
PAIRS = "".join(
    json.dumps({"prompt": f"Add {i}.", "chosen": f"return x + {i}", "rejected": f"print({i})"}) + "\n"
    for i in range(12)
)
#: what a reader is told to bring along and no page shows
BROUGHT = {
    "prompts.txt": "Add two numbers.\nReverse a string.\n",
    "mine.py": MINE,
    "own.jsonl": json.dumps({"prompt": "Write one.", "tests": ["assert one() == 1"]}) + "\n",
    "pairs.jsonl": PAIRS,
    # from /rate in a conversation
    "data/ratings.jsonl": PAIRS,
}


#: what is known not to work as it stands; to be empty
KNOWN = {"mlxrlhf annotate --prompts prompts.txt --model smollm2 --model-b weights/smollm2/rlhf"}


@dataclass(frozen=True)
class Command:
    """One command of a page, or, where `content` is given, a file."""

    line: int
    words: tuple[str, ...]
    flags: str = ""
    parsed: bool = False
    content: str | None = None


def blocks(text):
    """Yields (line of its first line, language, comments before it, content) of every code block of a page."""
    lines, comments, number = text.splitlines(), [], 0
    while number < len(lines):
        line = lines[number]
        if found := re.fullmatch(r"\s*<!--\s*(.*?)\s*-->\s*", line):
            comments.append(found[1])
        elif found := re.fullmatch(r"( *)(`{3,})(\w*).*", line):
            first = number + 1
            number = first
            while number < len(lines) and lines[number].strip() != found[2]:
                number += 1
            yield first + 1, found[3], comments, "\n".join(row.removeprefix(found[1]) for row in lines[first:number])
            comments = []
        elif line.startswith("    ") and line.strip() and (number == 0 or not lines[number - 1].strip()):
            first = number
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            yield first + 1, "", comments, "\n".join(row[4:] for row in lines[first:number])
            comments = []
            continue
        elif line.strip():
            comments = []
        number += 1


def commands(text):
    """Yields the commands and files of a page in order: those of blocks, then those of running text."""
    for first, language, comments, content in blocks(text):
        tests = [c.removeprefix("test:").strip() for c in comments if c.startswith("test:")]
        files = [c.removeprefix("file:").strip() for c in comments if c.startswith("file:")]
        for name in files:
            yield Command(first, (name,), content=content + "\n")
        if files or language not in ("", "sh", "bash", "console", "shell"):
            continue
        flags = " ".join(t for t in tests if t.startswith("-"))
        parsed = any(t.startswith("parsed") for t in tests)
        for number, line in joined(content):
            if language or line.split(" ")[0] in COMMANDS:
                for words in split(line.removeprefix("$ ")):
                    yield Command(first + number, tuple(words), flags, parsed)
    for number, line in enumerate(text.splitlines(), 1):
        for code in re.findall(r"`(mlxrlhf [^`]+)`", line):
            yield Command(number, tuple(shlex.split(PLACEHOLDER.sub("1", code))), parsed=True)


def joined(content):
    """Yields (number, line), lines that end in a backslash continued."""
    begun = ""
    for number, line in enumerate(content.splitlines()):
        if line.endswith("\\"):
            begun += line[:-1]
            continue
        yield number, begun + line
        begun = ""


def split(line):
    """The commands of a line, which && or ; may separate, as lists of words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for separator, words in itertools.groupby(lexer, lambda word: word in ("&&", ";")):
        if not separator:
            yield list(words)


def ours(words):
    """The arguments of `mlxrlhf` in a command, also behind a launcher or an environment variable; None in others."""
    for i, word in enumerate(words):
        if word in ("mlxrlhf", ".venv/bin/mlxrlhf", "mlxrlhf_cli.main"):
            return list(words[i + 1 :])
        if i == 0 and "=" not in word and word not in ("mlx.launch", "torchrun", "python", "python3"):
            return None
    return None


def parse(arguments):
    """Read a command's flags and their values, as the command line does before it runs."""
    import typer
    from mlxrlhf_cli import main

    if arguments and not arguments[0].startswith("-"):
        commands = typer.main.get_command(main.app).commands
        assert arguments[0] in commands, f"there is no command {arguments[0]}"
        try:
            commands[arguments[0]].make_context(arguments[0], arguments[1:])
        except Exception as error:  # the parser's own kinds
            raise AssertionError(getattr(error, "message", str(error))) from None


def run(folder, arguments, flags):
    """Run a command of ours, small."""
    name = arguments[0] if arguments else ""
    if name == "serve" or (name == "annotate" and not {"--stats", "--export"} & set(arguments)):
        return answers(folder, arguments)
    added = [*SMALL.get(name, "").split(), *flags.split()]
    mlxrlhf(folder, name, *arguments[1:], *added, stdin="/help\n" if name == "chat" else "")


def answers(folder, arguments):
    """A server says where it is, serves one request, and leaves on Ctrl-C."""
    added = ["--no-open"] if arguments[0] == "annotate" else []
    process = start(folder, arguments[0], *arguments[1:], "--port", "0", *added)
    try:
        said = ""
        while not (found := re.search(r"http://([\d.]+:\d+)", said)):
            line = process.stdout.readline()
            assert line, said + process.stderr.read()
            said += line
        if arguments[0] == "annotate":
            vote(found[1])
        else:
            with urllib.request.urlopen(f"http://{found[1]}/v1/models", timeout=60) as answer:
                assert json.load(answer)["data"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 130) and "Traceback" not in err, err
    finally:
        process.kill()


def vote(address):
    """A person prefers the left answer of every pair."""

    def ask(path, body):
        request = urllib.request.Request(
            f"http://{address}{path}", json.dumps(body).encode(), {"Origin": f"http://{address}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    while item := ask("/api/next", {"annotator": "ann"}).get("item"):
        judged = {"answer": "left", "strength": 2, "reasons": [], "rationale": "", "seconds": 3.5}
        ask("/api/vote", {"annotator": "ann", "assignment": item["assignment"], **judged})


@pytest.fixture
def reader(monkeypatch, maker):
    """A hub's models are a small random one, and the demo takes as few steps as the commands here."""
    from mlxrlhf.stages import demo

    monkeypatch.setattr(published, "_hub", lambda *arguments: maker)
    monkeypatch.setattr(published, "_smollm2", lambda say: maker)
    monkeypatch.setattr(demo, "DEMO", {name: small(name) for name in demo.DEMO})
    monkeypatch.setattr(demo, "DEMO_FROM_SCRATCH", {name: small(name) for name in demo.DEMO_FROM_SCRATCH})


def small(name):
    """The flags of SMALL as settings."""
    name = {"code": "finetune", "tools": "finetune"}.get(name, name)
    words = SMALL[name].split()
    return {flag[2:].replace("-", "_"): int(value) for flag, value in zip(words[::2], words[1::2])}


def parquet(folder):
    """pairs.jsonl in the format that data is published in."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        arrow.Table.from_pylist([json.loads(row) for row in PAIRS.splitlines()]), folder / "pairs.parquet"
    )


def failures(page, folder):
    """What does not work on a page, with its line."""
    text = page.read_text(encoding="utf-8")
    if found := re.search(r"<!-- test: after (\S+) -->", text):
        assert not failures(ROOT / found[1], folder)
    for name, content in BROUGHT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    parquet(folder)
    failed = []
    for command in commands(text):
        shown = f"{page.name}:{command.line}: {' '.join(command.words)}"
        began = time.process_time()
        try:
            check(folder, command)
        except AssertionError as error:
            failed.append(f"{shown}\n    {str(error).strip()[-500:]}")
        if os.environ.get("DOCS_TIMES"):
            print(f"{time.process_time() - began:6.1f} CPU seconds {shown}")
    return failed


def check(folder, command):
    """Raises AssertionError with what is wrong about a command."""
    arguments = ours(command.words)
    if command.content is not None:
        (folder / command.words[0]).parent.mkdir(parents=True, exist_ok=True)
        (folder / command.words[0]).write_text(command.content)
    elif arguments is None and command.words[0] == "make":
        targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(command.words[1:]) <= set(targets), f"make has {targets}"
    elif arguments is None:
        assert command.words[0] in OTHERS, f"{command.words[0]} is not known to this test"
    elif command.parsed or unrunnable(command):
        parse([PLACEHOLDER.sub("1", word) for word in arguments])
    else:
        run(folder, arguments, command.flags)


def unrunnable(command):
    """Whether a command needs the network, several processes (test_parallel.py) or words of the reader's own."""
    placeholder = any(PLACEHOLDER.fullmatch(word) for word in command.words)
    return placeholder or NETWORK.search(" ".join(command.words)) or command.words[0] in ("mlx.launch", "torchrun")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(page, reader, tmp_path):
    found = [one for one in failures(ROOT / page, tmp_path) if one.splitlines()[0].split(": ", 1)[1] not in KNOWN]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


WRONG = """# A page

```sh
mlxrlhf plan --size nano && mlxrlhf plan --sise nano    # the second flag is wrong
make nothing
frobnicate
mlxrlhf export --model nowhere \\
    --out x.gguf
```

<!-- file: own/rows.jsonl -->
```json
{"text": "a"}
```

<!-- test: parsed, because a person must be there -->
```sh
mlxrlhf chat --model nowhere
```

Or `mlxrlhf train --size S`.
"""


def test_what_is_wrong_on_a_page_is_found(tmp_path, maker):
    (tmp_path / "page.md").write_text(WRONG)
    found = failures(tmp_path / "page.md", tmp_path)
    assert [one.split(": ")[0] for one in found] == ["page.md:4", "page.md:5", "page.md:6", "page.md:8", "page.md:21"]
    assert "--sise" in found[0] and "nothing" in found[1] and "nowhere" in found[3] and "no command train" in found[4]
    assert (tmp_path / "own" / "rows.jsonl").read_text() == '{"text": "a"}\n'
