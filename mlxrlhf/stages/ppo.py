"""PPO on a language model: rollout, scoring, advantages, clipped updates (Schulman 2017; Ziegler 2019; Huang 2024).

One update, in order:
  1. sample a response to each prompt at the training temperature, nothing cut from the distribution;
  2. recompute log-probabilities and values with the training forward (never those of decoding);
  3. one forward of the frozen trunk gives the reference log-probabilities and the features the reward head scores;
  4. normalise the score, subtract the penalty for a missing end, add -beta * KL on every token;
  5. generalised advantage estimation; advantages whitened;
  6. `ppo_epochs` passes of clipped policy and value steps over shuffled minibatches;
  7. move beta towards its target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mlxrlhf.algorithms import advantages, losses, rollout
from mlxrlhf.config import PPOConfig
from mlxrlhf.errors import UserError

#: root mean square of (ratio - 1) allowed on the first minibatch, where old and new policy are the same
RATIO_TOLERANCE = 1e-3


class PPO:
    """One policy under optimisation, with what an update needs around it.

    policy, reference: `protocol.Model`; with LoRA they are one object, and the reference is its adapters switched off.
    score: (prompts, responses, features (B, d) float32) -> (B,) normalised scores.
    """

    def __init__(self, config: PPOConfig, policy, reference, score: Callable[..., np.ndarray], *,
                 end_ids: Sequence[int], pad_id: int):
        self.config, self.policy, self.reference, self.score = config, policy, reference, score
        self.end_ids, self.pad_id = list(end_ids), pad_id
        self.controller = advantages.KLController(config.kl_coef, config.kl_target)
        self.objective = losses.ppo_objective(clip=config.clip, value_clip=config.value_clip, vf_coef=config.vf_coef,
                                              entropy_coef=config.entropy_coef, kl_in_loss=config.kl_in_loss)
        self.want = ("logp", "value") + ("entropy",) * bool(config.entropy_coef) + ("kl",) * config.kl_in_loss
        self._runaways = 0

    @property
    def learning_rate(self) -> float:
        """Adapters start at zero and want a larger rate than a trained matrix does."""
        return self.config.learning_rate or (3e-4 if self.config.lora_rank else 1e-6)

    def collect(self, prompts: Sequence[Sequence[int]], rng: np.random.Generator) -> tuple[dict, dict]:
        """Steps 1 to 5. Returns the training batch and the metrics of the rollout."""
        c = self.config
        responses = self.policy.generate(prompts, uniforms=rng.random((len(prompts), c.max_tokens)), temperature=c.temp,
                                         max_tokens=c.max_tokens, stop_ids=self.end_ids, pad_id=self.pad_id)
        batch = rollout.arrange(prompts, responses, self.pad_id)
        mask = batch["mask"]
        old = self.policy.evaluate(batch, ("logp", "value", "entropy"), temperature=c.temp)
        wanted = ("logp", "features") + ("hidden",) * c.kl_in_loss
        frozen = self.reference.evaluate(batch, wanted, temperature=c.temp, adapters=False)

        finished = rollout.ends(responses, self.end_ids)
        scores = self.score(prompts, responses, frozen["features"])
        penalised = scores - c.missing_end_penalty * ~finished
        kl = advantages.kl_estimate(old["logp"], frozen["logp"]) * mask
        rewards = advantages.shaped_rewards(penalised, kl, mask, 0.0 if c.kl_in_loss else self.controller.beta)
        if c.whiten_rewards:
            rewards = advantages.whiten(rewards, mask, shift_mean=False)
        values = old["value"] * mask
        advantage, returns = advantages.gae(rewards, values, mask, c.gamma, c.lam)
        kl_sum, penalty = float(kl.sum(axis=1).mean()), float(-self.controller.beta * kl.sum(axis=1).mean())
        metrics = {
            "objective/scores": float(scores.mean()), "objective/scores_std": float(scores.std()),
            "objective/kl": kl_sum, "objective/entropy": float((old["entropy"] * mask).sum() / mask.sum()),
            "objective/non_score_reward": penalty, "objective/rlhf_reward": float(penalised.mean()) + penalty,
            "value/explained_variance": advantages.explained_variance(values, returns, mask),
            "response/length": float(mask.sum(axis=1).mean()), "response/truncated": float(1 - finished.mean()),
            "kl_coef": self.controller.beta,
        }
        batch.update(old_logp=old["logp"], old_value=values.astype(np.float32), advantages=advantage, returns=returns)
        if c.kl_in_loss:
            batch["reference_hidden"] = frozen["hidden"]
        return batch, metrics

    def update(self, prompts: Sequence[Sequence[int]], rng: np.random.Generator,
               learning_rate: float) -> dict[str, float]:
        """One whole update. Raises UserError in plain words when an invariant breaks."""
        c = self.config
        batch, metrics = self.collect(prompts, rng)
        self._check_rollout(metrics)
        mask = batch["mask"]
        metrics["lr"] = learning_rate
        if np.ptp(batch["advantages"][mask > 0]) < 1e-8:
            # Adam scales any gradient to a full-size step: without a signal it would follow rounding noise.
            return {**metrics, "skipped": 1.0}
        batch["advantages"] = advantages.whiten(batch["advantages"], mask, shift_mean=True)

        steps = []
        for _ in range(c.ppo_epochs):
            order = rng.permutation(len(mask))
            for rows in np.array_split(order, -(-len(mask) // c.mini_batch_size)):
                mini = {k: v if np.ndim(v) == 0 else v[rows] for k, v in batch.items() if k != "last"}
                mini["total"] = np.float32(mini["mask"].sum())
                mini["kl_coef"] = np.float32(self.controller.beta)
                steps.append(self.policy.step(self.objective, [mini], want=self.want, learning_rate=learning_rate,
                                              temperature=c.temp))
                if len(steps) == 1:
                    self._check_first(steps[0])
        for name in steps[0]:
            metrics[name] = float(np.mean([s[name] for s in steps]))
        self.controller.update(metrics["objective/kl"])
        return metrics

    def _check_first(self, metrics: dict[str, float]) -> None:
        error = np.sqrt(metrics["val/ratio_error"])
        if not error < RATIO_TOLERANCE:
            raise UserError(f"the policy ratio is off by {error:.2g} on the first minibatch, where it must be 1: the "
                            "rollout and the training forward disagree (masks, temperature or precision)")

    def _check_rollout(self, metrics: dict[str, float]) -> None:
        if not all(np.isfinite(v) for v in metrics.values()):
            broken = next(k for k, v in metrics.items() if not np.isfinite(v))
            raise UserError(f"{broken} is not finite: the policy has diverged; resume with a lower --learning-rate")
        self._runaways = self._runaways + 1 if metrics["objective/kl"] > self.config.kl_limit else 0
        if self._runaways >= 3:
            raise UserError(f"KL stayed above --kl-limit {self.config.kl_limit:g} nats per response for three updates: "
                            "the policy runs away from its reference; lower --learning-rate or raise --kl-coef")
        if metrics["objective/entropy"] < 1e-3:
            raise UserError("entropy has collapsed to zero: every response is the same; lower --learning-rate, raise "
                            "--kl-coef or set --entropy-coef 0.01")
