"""The command line as a user types it."""

import subprocess
import sys

import pytest


def mlxrlhf(*arguments):
    return subprocess.run([sys.executable, "-m", "mlxrlhf_cli.main", *arguments], capture_output=True, text=True)


def test_doctor_reports_and_checks_the_device():
    result = mlxrlhf("doctor")
    assert result.returncode == 0, result.stderr
    for line in ("device", "blas", "sandbox", "differ from the CPU's by at most"):
        assert line in result.stdout


def test_an_unknown_command_is_exit_code_2_without_a_traceback():
    result = mlxrlhf("ppoo")
    assert result.returncode == 2 and "Traceback" not in result.stderr


def test_help_imports_no_array_library():
    code = (
        "import sys; from mlxrlhf_cli.main import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'mlx', 'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_library_rooms_import_no_array_library():
    code = (
        "import sys, mlxrlhf.stages.ppo, mlxrlhf.stages.reward, mlxrlhf.stages.run, mlxrlhf.data.batches\n"
        "assert not {'mlx', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "written,typed,message",
    [
        ("learning-rate: 1e-4\nbatch_size: 0\n", [], "--batch-size is 0"),
        ("batch-size: 0\n", ["--batch-size", "2"], "run: mlxrlhf prepare all --size nano"),
        ("size: micro\n", [], "run: mlxrlhf prepare all --size micro"),
        ("batch-sise: 2\n", [], "settings.yaml:1: batch-sise is no flag of this command"),
        ("batch-size: 2.5\n", [], "must be a value of type int"),
        ("resume: 1\n", [], "must be a value of type bool"),
        ("a: [\n", [], "is not valid YAML"),
        ("- a\n", [], "must hold lines"),
    ],
)
def test_a_yaml_file_gives_flags_and_the_command_line_wins(tmp_path, monkeypatch, written, typed, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text(written)
    result = mlxrlhf("pretrain", "-c", "settings.yaml", *typed)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
