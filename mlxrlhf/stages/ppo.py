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

import json
from collections.abc import Callable, Sequence

import numpy as np

from mlxrlhf import backends, checkpoint
from mlxrlhf.algorithms import advantages, losses, rollout
from mlxrlhf.config import PPOConfig, to_json
from mlxrlhf.data.batches import pick
from mlxrlhf.data.dialogue import render_prompt
from mlxrlhf.errors import UserError
from mlxrlhf.runlog import RunLog, read_metrics
from mlxrlhf.stages import folders, training
from mlxrlhf.stages import reward as reward_stage

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
        old = self._forward(self.policy, batch, ("logp", "value", "entropy"))
        wanted = ("logp", "features") + ("hidden",) * c.kl_in_loss
        frozen = self._forward(self.reference, batch, wanted, adapters=False)

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
                shared = {"total": np.float32(mask[rows].sum()), "kl_coef": np.float32(self.controller.beta)}
                parts = [rollout.cut({**batch, **shared}, rows[part])
                         for part in rollout.by_length(mask[rows], c.micro_batch_size)]
                steps.append(self.policy.step(self.objective, parts, want=self.want, learning_rate=learning_rate,
                                              temperature=c.temp))
                if len(steps) == 1:
                    self._check_first(steps[0])
        for name in steps[0]:
            metrics[name] = float(np.mean([s[name] for s in steps]))
        self.controller.update(metrics["objective/kl"])
        return metrics

    def _forward(self, model, batch: dict, want: Sequence[str], adapters: bool = True) -> dict[str, np.ndarray]:
        """`model.evaluate` over the whole batch, in micro-batches of similar length; zero behind a response's end."""
        mask, out = batch["mask"], {}
        for rows in rollout.by_length(mask, self.config.micro_batch_size):
            found = model.evaluate(rollout.cut(batch, rows), want, temperature=self.config.temp, adapters=adapters)
            for name, value in found.items():
                if name == "features":
                    out.setdefault(name, np.zeros((len(mask), value.shape[1]), np.float32))[rows] = value
                else:
                    whole = out.setdefault(name, np.zeros((*mask.shape, *value.shape[2:]), np.float32))
                    whole[rows, :value.shape[1]] = value
        return out

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


# --- the stage -----------------------------------------------------------------------------------------------------

def run(config: PPOConfig) -> dict:
    """Align the tools checkpoint and write weights/SIZE/rlhf. Returns the figures of summary.json."""
    source, model_config, tokenizer = folders.open_checkpoint(config, "tools", config.checkpoint)
    backend = backends.load(config.backend, config.device)
    head, normalise = reward_stage.load(folders.reward_model(config), backend, tokenizer)
    prompts = load_prompts(config, ("train",))
    encoded = [render_prompt([{"role": "user", "content": p["prompt"]}], tokenizer) for p in prompts]
    check_context(encoded, config.max_tokens, model_config.max_positions)
    out = folders.output(config, "rlhf")
    points = checkpoint.SavePoints(out)
    found = training.resume_from(points, config, print)
    settings = dict(folder=source, seed=config.seed, dtype=config.dtype)
    policy = backend.Model(model_config, lora_rank=config.lora_rank, lora_scale=config.lora_scale, value_head=True,
                           max_grad_norm=config.max_grad_norm, head_learning_rate=config.value_learning_rate,
                           keep_reference_head=config.kl_in_loss, optimizer_dtype=config.optimizer_dtype,
                           gradient_checkpointing=config.gradient_checkpointing, **settings)
    # With adapters the reference is the same trunk with them off: one trunk, four roles.
    reference = policy if config.lora_rank else backend.Model(model_config, **settings)
    ppo = PPO(config, policy, reference, lambda prompts, responses, features: normalise(head.scores(features)),
              end_ids=[tokenizer.end_id], pad_id=tokenizer.pad_id)
    start = 0
    if found:
        policy.load_state(found[0])
        start, ppo.controller.beta = found[1]["step"], found[1]["beta"]
    total = config.num_epochs * config.steps_per_epoch

    def keep(step: int) -> None:
        points.save(step, policy.state(), {"config": to_json(config), "beta": ppo.controller.beta})

    with RunLog(out / "run", "ppo", total, to_json(config), start=start, memory=backend.peak_memory) as log, \
            training.Interrupt() as interrupt:
        for step in range(start, total):
            rows = pick(len(encoded), config.batch_size, config.seed, step)
            rate = ppo.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
            try:
                metrics = ppo.update([encoded[i] for i in rows], np.random.default_rng([config.seed, step]), rate)
            except UserError:
                keep(step)  # what there is before the update that broke an invariant
                raise
            log.log(step + 1, metrics, tokens=int(metrics["response/length"] * config.batch_size))
            if (step + 1) % config.save_every == 0 or step + 1 == total or interrupt.asked:
                keep(step + 1)
            if interrupt.asked and step + 1 < total:
                raise training.Interrupted(f"stopped at update {step + 1} of {total}; the same command with --resume "
                                           "continues")
        figures = summarise(read_metrics(out / "run" / "metrics.jsonl"))
        log.summary(figures)
    with checkpoint.atomic_folder(out) as folder:
        folders.save_checkpoint(policy, folder, tokenizer)
    return figures


def load_prompts(config, groups: Sequence[str]) -> list[dict]:
    """Requests {task, prompt, group} of the prepared data."""
    path = folders.need(folders.data(config) / "prompts.json", f"mlxrlhf prepare all {folders.flag(config)}")
    content = json.loads(path.read_text(encoding="utf-8"))
    return [{**row, "group": group} for group in groups for row in content[group]]


def check_context(prompts: Sequence[Sequence[int]], max_tokens: int, context: int) -> None:
    """Raises UserError when the longest prompt and its response do not fit into the model's context."""
    longest = max(map(len, prompts))
    if longest + max_tokens > context:
        raise UserError(f"a prompt of {longest:,} tokens and --max-tokens {max_tokens:,} exceed the model's context of "
                        f"{context:,}; shorten the prompt or lower --max-tokens")


def summarise(rows: Sequence[dict]) -> dict:
    """First against last ten updates: reward with its spread, KL, length."""
    first, last = rows[:10], rows[-10:]

    def mean(some: Sequence[dict], key: str) -> float:
        return float(np.mean([row[key] for row in some]))

    return {"updates": len(rows), "reward_first10": mean(first, "objective/scores"),
            "reward_last10": mean(last, "objective/scores"),
            "reward_last10_std": float(np.std([row["objective/scores"] for row in last])),
            "reward_first10_std": float(np.std([row["objective/scores"] for row in first])),
            "kl_last": mean(last, "objective/kl"), "length_first10": mean(first, "response/length"),
            "length_last10": mean(last, "response/length"),
            "seconds": float(np.sum([row["time/seconds"] for row in rows]))}
