"""Schedules of learning rate and KL weight, as pure functions of the step."""

from __future__ import annotations

import math


def learning_rate(step: int, total: int, *, peak: float, final: float, warmup: int) -> float:
    """Return a learning rate: linear rise over ``warmup`` steps, then half a cosine from ``peak`` to ``final`` at ``total``."""
    warmup = min(warmup, max(total // 10, 1))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + 0.5 * (peak - final) * (1.0 + math.cos(math.pi * progress))


def kl_weight(step: int, total: int, *, weight: float, warmup: float) -> float:
    """Return a KL weight: linear rise over the first ``warmup`` fraction of steps (0.1–0.2 in the best reproduction of BLIP)."""
    rise = warmup * total
    return weight * min(1.0, (step + 1) / rise) if rise >= 1 else weight
