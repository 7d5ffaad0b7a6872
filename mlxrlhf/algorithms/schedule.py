"""Learning rate schedules."""

from __future__ import annotations

import math


def cosine_with_warmup(step: int, *, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Learning rate of update `step` (from 0): linear to `peak`, then a cosine to floor * peak (Loshchilov 2017)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def constant_with_warmup(step: int, *, peak: float, warmup: int) -> float:
    """Learning rate of update `step` (from 0): linear to `peak` over `warmup` updates, then constant."""
    return peak * min(1.0, (step + 1) / max(1, warmup))
