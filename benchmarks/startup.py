"""How long a command takes before it does anything: --help, and the first token of chat, beside Python and torch.

    .venv-bench/bin/python benchmarks/startup.py [--rounds 9]

Whole processes, in turn; medians in seconds, smallest and largest in brackets. chat talks to the shipped model, which
is five times as large as nano. Writes startup.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CHAT = ["-m", "mlxrlhf_cli.main", "chat", "--prompt", "Hello", "--max-tokens", "1", "--tools", "off", "--backend"]
COMMANDS = {
    "python, nothing": ["-c", ""],
    "python, import torch": ["-c", "import torch"],
    "mlxrlhf --help": ["-m", "mlxrlhf_cli.main", "--help"],
    "first token of chat, mlx": [*CHAT, "mlx"],
    "first token of chat, torch": [*CHAT, "torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=HERE)
    a = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as empty:  # no weights/ of one's own
        for _ in range(a.rounds):
            for name, command in COMMANDS.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=empty)
                taken[name].append(time.perf_counter() - began)
    found = {
        name: {"seconds": round(float(np.median(s)), 2), "min": round(min(s), 2), "max": round(max(s), 2)}
        for name, s in taken.items()
    }
    for name, f in found.items():
        print(f"{name}: {f['seconds']:.2f} ({f['min']:.2f}-{f['max']:.2f})")
    (a.out / "startup.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
