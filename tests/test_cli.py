"""The command line as a user types it."""

import subprocess
import sys


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
    code = ("import sys; from mlxrlhf_cli.main import app\n"
            "try: app(['--help'])\nexcept SystemExit: pass\n"
            "assert not {'mlx', 'torch', 'transformers', 'numpy'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_library_rooms_import_no_array_library():
    code = ("import sys, mlxrlhf.stages.ppo, mlxrlhf.stages.reward, mlxrlhf.stages.training, mlxrlhf.data.batches\n"
            "assert not {'mlx', 'torch'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
