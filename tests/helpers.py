"""What several test files use: the command line in this process or in one of its own, killed runs, metrics."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from mlxrlhf.report.runlog import read_metrics

COMMAND = [sys.executable, "-m", "mlxrlhf_cli.main"]
ROOT = Path(__file__).resolve().parents[1]


class Said(NamedTuple):
    """What a command printed."""

    out: str
    err: str

    @property
    def all(self):
        return self.out + self.err


def words(command, *arguments):
    """The command line as a list: the first word may hold flags too, split at spaces; what follows is kept whole."""
    return [*command.split(), *map(os.fsdecode, arguments)]


def mlxrlhf(folder, *command, stdin="", code=0):
    """`mlxrlhf COMMAND` in FOLDER, in this process, which saves the seconds that libraries take to load.

    Goes through the entry point of the installed command, where every error has become a sentence and an exit code.
    """
    from mlxrlhf_cli import main

    out, err, left = io.StringIO(), io.StringIO(), 0
    typed = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", typed),
        mock.patch.object(sys, "argv", ["mlxrlhf", *words(*command)]),
    ):
        try:
            main.run()
        except SystemExit as error:
            left = error.code or 0
    assert left == code, out.getvalue() + err.getvalue()
    return Said(out.getvalue(), err.getvalue())


def start(folder, *command, **settings):
    """The same in a process of its own, its output in pipes."""
    return subprocess.Popen(
        [*COMMAND, *words(*command)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


def mlxrlhf_process(folder, *command, code=0):
    """The same in a process of its own, to its end."""
    process = start(folder, *command)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return Said(out, err)


def metrics(run):
    """The rows of a run's metrics.jsonl that a second run must repeat: without times and memory."""
    rows = read_metrics(Path(run) / "run" / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in rows]


#: `mlxrlhf ARGUMENTS`, which kills itself with SIGKILL right after it wrote its row N of metrics
KILLED = """
import os, signal, sys
from mlxrlhf.report.runlog import RunLog
from mlxrlhf_cli import main
rows, log = int(sys.argv.pop(1)), RunLog.log
def log_and_die(self, step, *arguments, **settings):
    log(self, step, *arguments, **settings)
    if step == rows:
        os.kill(os.getpid(), signal.SIGKILL)
RunLog.log = log_and_die
main.run()
"""


def kill_after(rows, folder, *command):
    """Run a command in a process of its own that dies by SIGKILL right after row ROWS of its metrics."""
    arguments = [sys.executable, "-c", KILLED, str(rows), *words(*command)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
