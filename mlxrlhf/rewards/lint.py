"""How tidy code is, as a reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlxrlhf.tasks import quality


def lint(codes: Sequence[str]) -> np.ndarray:
    """How tidy each code is, (B,) float32 in 0 to 1; see the head of this file."""
    return np.array(
        [(q.docstring + q.type_hints + 1 / (1 + q.lint)) / 3 if q.definitions else 0.0 for q in quality.measure(codes)],
        np.float32,
    )
