"""The command line as a user types it."""

import subprocess
import sys

import pytest
from helpers import mlxrlhf, mlxrlhf_process


def test_doctor_reports_and_checks_the_device(tmp_path):
    said = mlxrlhf(tmp_path, "doctor").out
    for line in ("device", "blas", "sandbox", "differ from the CPU's by at most"):
        assert line in said


def test_an_unknown_command_is_exit_code_2_without_a_traceback(tmp_path):
    assert "ppoo" in mlxrlhf_process(tmp_path, "ppoo", code=2).err


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
def test_a_yaml_file_gives_flags_and_the_command_line_wins(tmp_path, written, typed, message):
    (tmp_path / "settings.yaml").write_text(written)
    assert message in mlxrlhf(tmp_path, "pretrain -c settings.yaml", *typed, code=2).err
