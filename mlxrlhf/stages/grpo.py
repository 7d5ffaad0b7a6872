"""GRPO (Shao et al. 2024): PPO without a critic. Each response is judged against the others to the same prompt.

It is `stages/ppo.py`, rollout for rollout and step for step, with three differences: the advantage of every token is
its response's score, less the mean of its group and over its deviation; there is no value head; and the KL (k3) is in
the loss. It needs no value function to warm up, and spends `--responses-per-prompt` rollouts on each prompt instead.
"""

from __future__ import annotations

from mlxrlhf.config import GRPOConfig
from mlxrlhf.stages import ppo


def run(config: GRPOConfig) -> dict:
    """Align the tools checkpoint and write weights/SIZE/grpo. Returns the figures of summary.json."""
    return ppo.align(config, "grpo")
