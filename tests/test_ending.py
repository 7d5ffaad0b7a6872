"""How commands end: one sentence and the exit code, whatever happens to them or to what they print to."""

import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from mlxrlhf_cli import ending, main

from mlxrlhf.errors import UserError

MLXRLHF = [sys.executable, "-m", "mlxrlhf_cli.main"]


def run(shell, folder, **settings):
    """A command line of sh in which M stands for mlxrlhf."""
    return subprocess.run(
        ["bash", "-c", f'M() {{ {" ".join(MLXRLHF)} "$@"; }}; {shell}'],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        **settings,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", ["--version", "ppo --help", "plan --size nano"])
def test_a_full_standard_output_is_one_sentence(tmp_path, command):
    done = run(f"M {command} >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("mlxrlhf: standard output cannot be written (No space left on device), so mlxrlhf ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_one_sentence(tmp_path):
    done = run("M plan --size nano | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert done.returncode == 141
    assert done.stderr == "mlxrlhf: nobody reads standard output any more, so mlxrlhf plan stopped\n"


def test_a_full_standard_error_is_no_endless_matter(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    assert run("M plan --size nothing 2>/dev/full", tmp_path).returncode in (1, 2)


def test_chat_with_a_closed_standard_input_leaves_at_its_end(tmp_path):
    done = run("M chat <&-", tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "/help lists the commands" in done.stdout
    done = run("M chat --prompt hi --max-tokens 3 <&- >&-", tmp_path)
    assert done.returncode == 0 and "[3 tokens" in done.stderr


def app_that_raises(error):
    app = typer.Typer(cls=ending.Commands, pretty_exceptions_enable=False)

    @app.command()
    def ppo():
        raise error

    @app.command()
    def other():
        pass

    return app


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division"), EOFError("no data left"), OSError(32, "Broken pipe"), MemoryError()]
)
def test_what_nobody_foresaw_is_one_sentence_and_a_file(monkeypatch, capsys, tmp_path, error):
    monkeypatch.setattr(sys, "argv", ["mlxrlhf", "ppo"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ending.run(app_that_raises(error)) == 1
    out, said = capsys.readouterr()
    assert out == "" and said.count("\n") == 1
    assert said.startswith(f"mlxrlhf: mlxrlhf ppo stopped on an error that nobody foresaw ({type(error).__name__}")
    (file,) = tmp_path.iterdir()
    assert f"please report it with the file {file}" in said
    kept = file.read_text()
    assert "command: ['mlxrlhf', 'ppo']" in kept and "Traceback" in kept and "raise error" in kept
    assert re.search(r"mlxrlhf \d", kept) and re.search(r"Python 3\.\d", kept)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "what a command line holds is its owner's"


def test_where_no_file_can_be_written_the_traceback_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mlxrlhf", "ppo"])
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    assert ending.run(app_that_raises(ZeroDivisionError("division"))) == 1
    said = capsys.readouterr().err
    assert "please report it with the command and these lines:" in said and "raise error" in said


def test_a_users_error_is_exit_code_2_and_reaches_the_terminal_cleaned(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mlxrlhf", "ppo"])
    assert ending.run(app_that_raises(UserError("row \x1b[31m\x1b]0;title\x07 of \u202efile\ud83d is bad"))) == 2
    assert capsys.readouterr().err == "mlxrlhf: row  of \\u202efile\\ud83d is bad\n"


def test_ctrl_c_is_130_and_silent(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mlxrlhf", "ppo"])
    assert ending.run(app_that_raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_what_a_stage_says_is_cleaned(capsys):
    main.say("after:\n\x1b[2Jprint('\u202ehi')\t\u2066")
    assert capsys.readouterr().out == "after:\nprint('\\u202ehi')\t\\u2066\n"


def test_a_report_shows_a_models_words_in_the_order_they_stand_in():
    from mlxrlhf.report.page import samples_section

    sample = {
        "prompt": "p\u202e",
        "group": "g",
        "score_before": 0.0,
        "score_after": 1.0,
        "before": "<\u2066",
        "after": "a",
    }
    section = samples_section("t", [sample])
    assert "p\\u202e" in section and "&lt;\\u2066" in section and "\u202e" not in section
