"""The commands that the benchmarks here are made of."""

import subprocess
import sys
import time


def mlxrlhf(*arguments: str) -> float:
    """One command, its output on this screen; ends the benchmark when it fails. Returns its minutes."""
    print("$ mlxrlhf", " ".join(arguments), flush=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-P", "-m", "mlxrlhf_cli.main", *arguments], check=True)
    return (time.monotonic() - began) / 60
