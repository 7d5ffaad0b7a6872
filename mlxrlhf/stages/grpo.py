"""GRPO (Shao et al. 2024): PPO without a critic. Each response is judged against the others to the same prompt.

It is `stages/ppo.py`, rollout for rollout and step for step, with three differences: the advantage of every token is
its response's score, less the mean of its group and over its deviation; there is no value head; and the KL (k3) is in
the loss. It needs no value function to warm up, and spends `--responses-per-prompt` rollouts on each prompt instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlxrlhf.algorithms import advantages, losses
from mlxrlhf.backends.protocol import Batch, Objective
from mlxrlhf.config import GRPOConfig
from mlxrlhf.rewards.components import Component
from mlxrlhf.rewards.model import RewardModel
from mlxrlhf.stages.ppo import PPO, align
from mlxrlhf.stages.run import Run


def run(config: GRPOConfig) -> dict[str, Any]:
    """Align the tools checkpoint and write weights/SIZE/grpo. Returns the figures of summary.json."""
    return align(config, GRPO)


class GRPO(PPO):
    """PPO whose baseline is the mean of a prompt's own responses."""

    stage, title = "grpo", "grpo"

    @classmethod
    def model_settings(
        cls, run: Run[Any], components: Sequence[Component], reward_model: RewardModel | None
    ) -> dict[str, Any]:
        """There is no value head."""
        return {}

    @property
    def rollout_outputs(self) -> tuple[str, ...]:
        return ("logp", "entropy")

    @property
    def reference_outputs(self) -> tuple[str, ...]:
        return ("logp", "features")

    @property
    def step_outputs(self) -> tuple[str, ...]:
        return ("logp", "entropy") if self.config.entropy_coef else ("logp",)

    def _objective(self) -> Objective:
        return losses.grpo_objective(clip=self.config.clip, entropy_coef=self.config.entropy_coef)

    def _estimate(self, batch: Batch, scores: np.ndarray, kl: np.ndarray, old: dict, frozen: dict) -> dict[str, float]:
        """Put into the batch: advantages among the responses to a prompt; the reference, for the KL in the loss."""
        c = self.config
        advantage = advantages.group_advantages(scores, c.responses_per_prompt, scale=c.scale_rewards == "group")
        batch["advantages"] = advantage[:, None] * batch["mask"]
        batch["ref_logp"] = frozen["logp"]
        spread = np.ptp(scores.reshape(-1, c.responses_per_prompt), axis=1)
        return {"frac_reward_zero_std": float((spread < 1e-8).mean())}

    def _normalised(self, advantage: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return advantage  # its group has normalised it

    def _weights(self, mask: np.ndarray) -> np.ndarray:
        return advantages.token_weights(mask, self.config.loss_type, self.config.max_tokens)
