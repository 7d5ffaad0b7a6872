"""PPO on a language model: rollout, scoring, advantages, clipped updates (Schulman 2017; Ziegler 2019; Huang 2024).

One update, in order:
  1. sample the responses to each prompt at the training temperature, nothing cut from the distribution;
  2. recompute log-probabilities and values with the training forward (never those of decoding);
  3. one forward of the frozen trunk gives the reference log-probabilities and the features the reward head scores;
  4. score what --reward names (the head's normalised score, tests that are run, ...), subtract the penalty for a
     missing end, add -beta * KL on every token;
  5. generalised advantage estimation; advantages whitened;
  6. `ppo_epochs` passes of clipped policy and value steps over shuffled minibatches;
  7. move beta towards its target.

GRPO (stages/grpo.py) is the same update without a critic: no values in 2, no KL in 4 (it is in the loss), and in 5 the
advantage of a response is its score among the responses to its prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlxrlhf import backends, parallel, plan
from mlxrlhf.algorithms import advantages, losses, rollout
from mlxrlhf.config import GRPOConfig, PPOConfig
from mlxrlhf.data.batches import pick
from mlxrlhf.errors import UserError
from mlxrlhf.files import atomic_folder
from mlxrlhf.models import folders
from mlxrlhf.models.folders import load_prompts
from mlxrlhf.models.savepoints import SavePoints
from mlxrlhf.report import diagnosis
from mlxrlhf.report.runlog import RunLog
from mlxrlhf.rewards.components import Component, Rewards, parse_reward
from mlxrlhf.rewards.model import critic_start, read_description, scorer
from mlxrlhf.sandbox import runner
from mlxrlhf.settings import to_json
from mlxrlhf.stages.run import loop, resume_from
from mlxrlhf.stages.sampling import check_context, encode_prompts
from mlxrlhf.tasks import requests

#: root mean square of (ratio - 1) allowed on the first minibatch, where old and new policy are the same; in bfloat16
#: rounding alone makes up to 0.01 where the two forwards had other rows beside them and so other kernels
RATIO_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}


class PPO:
    """One policy under optimisation, with what an update needs around it.

    policy, reference: `protocol.Model`; with LoRA they are one object, and the reference is its adapters switched off.
    score: (rows, responses, features (B, d) float32) -> {"scores": (B,), and other measures to report by name}; a row
    is what the caller knows of a prompt.
    """

    def __init__(
        self,
        config: PPOConfig | GRPOConfig,
        policy,
        reference,
        score: Callable[..., dict[str, np.ndarray]],
        *,
        end_ids: Sequence[int],
        pad_id: int,
    ):
        self.config, self.policy, self.reference, self.score = config, policy, reference, score
        self.end_ids, self.pad_id = list(end_ids), pad_id
        self.controller = advantages.KLController(config.kl_coef, config.kl_target)
        self.critic = isinstance(config, PPOConfig)
        self.full_kl = self.critic and config.kl_in_loss
        if self.critic:
            self.objective = losses.ppo_objective(
                clip=config.clip,
                value_clip=config.value_clip,
                vf_coef=config.vf_coef,
                entropy_coef=config.entropy_coef,
                kl_in_loss=config.kl_in_loss,
            )
        else:
            self.objective = losses.grpo_objective(clip=config.clip, entropy_coef=config.entropy_coef)
        self.want = (
            ("logp",) + ("value",) * self.critic + ("entropy",) * bool(config.entropy_coef) + ("kl",) * self.full_kl
        )
        self._runaways = 0

    def collect(
        self, prompts: Sequence[Sequence[int]], rng: np.random.Generator, rows: Sequence | None = None
    ) -> tuple[dict, dict]:
        """Steps 1 to 5. Returns the training batch and the metrics of the rollout."""
        c, beta = self.config, self.controller.beta
        prompts, rows = (
            [x for x in some for _ in range(c.responses_per_prompt)]
            for some in (prompts, prompts if rows is None else rows)
        )
        responses = self._sample(prompts, rng.random((len(prompts), c.max_tokens)))
        batch = rollout.arrange(prompts, responses, self.pad_id)
        mask = batch["mask"]
        old = self._forward(self.policy, batch, ("logp", "entropy") + ("value",) * self.critic)
        wanted = ("logp", "features") + ("hidden",) * self.full_kl
        frozen = self._forward(self.reference, batch, wanted, adapters=False)

        finished = rollout.ends(responses, self.end_ids)
        began = time.monotonic()
        measures = self._score(rows, responses, frozen["features"])
        scoring = time.monotonic() - began
        scores = measures["scores"]
        penalised = scores - c.missing_end_penalty * ~finished
        kl = advantages.kl_estimate(old["logp"], frozen["logp"]) * mask
        kl_sum = float(kl.sum(axis=1).mean())
        metrics = {
            **{f"objective/{name}": float(values.mean()) for name, values in measures.items()},
            "objective/scores_std": float(scores.std()),
            "objective/kl": kl_sum,
            "objective/entropy": float((old["entropy"] * mask).sum() / mask.sum()),
            "objective/non_score_reward": -beta * kl_sum,
            "objective/rlhf_reward": float(penalised.mean()) - beta * kl_sum,
            "response/length": float(mask.sum(axis=1).mean()),
            "response/truncated": float(1 - finished.mean()),
            "kl_coef": beta,
            "time/scoring": scoring,
        }
        batch["old_logp"] = old["logp"]
        estimate = self._gae if self.critic else self._among_group
        metrics.update(estimate(batch, penalised, kl, old, frozen))
        return batch, metrics

    def _gae(self, batch: dict, scores: np.ndarray, kl: np.ndarray, old: dict, frozen: dict) -> dict[str, float]:
        """PPO's step 5, put into the batch: the KL is part of the reward, values are the baseline."""
        c, mask, values = self.config, batch["mask"], old["value"] * batch["mask"]
        reward = advantages.shaped_rewards(scores, kl, mask, 0.0 if c.kl_in_loss else self.controller.beta)
        if c.whiten_rewards:
            reward = advantages.whiten(reward, mask, shift_mean=False)
        advantage, returns = advantages.gae(reward, values, mask, c.gamma, c.lam)
        batch.update(old_value=values.astype(np.float32), advantages=advantage, returns=returns)
        if c.kl_in_loss:
            batch["reference_hidden"] = frozen["hidden"]
        return {"value/explained_variance": advantages.explained_variance(values, returns, mask)}

    def _among_group(
        self, batch: dict, scores: np.ndarray, kl: np.ndarray, old: dict, frozen: dict
    ) -> dict[str, float]:
        """GRPO's step 5, put into the batch: the baseline is the mean of the responses to the same prompt."""
        c = self.config
        advantage = advantages.group_advantages(scores, c.responses_per_prompt, scale=c.scale_rewards == "group")
        batch.update(advantages=advantage[:, None] * batch["mask"], ref_logp=frozen["logp"])
        spread = np.ptp(scores.reshape(-1, c.responses_per_prompt), axis=1)
        return {"frac_reward_zero_std": float((spread < 1e-8).mean())}

    def update(
        self,
        prompts: Sequence[Sequence[int]],
        rng: np.random.Generator,
        learning_rate: float,
        rows: Sequence | None = None,
    ) -> dict[str, float]:
        """One whole update. Raises UserError in plain words when an invariant breaks."""
        c = self.config
        batch, metrics = self.collect(prompts, rng, rows)
        self._check_rollout(metrics)
        mask = batch["mask"]
        metrics["lr"] = learning_rate
        if np.ptp(batch["advantages"][mask > 0]) < 1e-8:
            # Adam scales any gradient to a full-size step: without a signal it would follow rounding noise.
            return {**metrics, "skipped": 1.0}
        if self.critic:
            batch["advantages"] = advantages.whiten(batch["advantages"], mask, shift_mean=True)
        else:
            batch["weight"] = np.zeros_like(mask)

        steps = []
        for _ in range(c.ppo_epochs):
            order = rng.permutation(len(mask))
            for chosen in np.array_split(order, -(-len(mask) // c.mini_batch_size)):
                shared = {"total": np.float32(mask[chosen].sum()), "kl_coef": np.float32(self.controller.beta)}
                if not self.critic:
                    batch["weight"][chosen] = advantages.token_weights(mask[chosen], c.loss_type, c.max_tokens)
                own = chosen[parallel.share(len(chosen), self.policy)]
                parts = [
                    rollout.cut({**batch, **shared}, own[part])
                    for part in rollout.by_length(mask[own], c.micro_batch_size)
                ]
                steps.append(
                    self.policy.step(
                        self.objective, parts, want=self.want, learning_rate=learning_rate, temperature=c.temp
                    )
                )
                if len(steps) == 1:
                    self._check_first(steps[0])
        for name in steps[0]:
            metrics[name] = float(np.mean([s[name] for s in steps]))
        metrics["time/traces"] = self.policy.traces
        self.controller.update(metrics["objective/kl"])
        return metrics

    def _forward(self, model, batch: dict, want: Sequence[str], adapters: bool = True) -> dict[str, np.ndarray]:
        """`model.evaluate` over the whole batch, in micro-batches of similar length; zero behind a response's end."""
        mask, out = batch["mask"], {}
        own = parallel.share(len(mask), self.policy)
        for part in rollout.by_length(mask[own], self.config.micro_batch_size):
            rows = own[part]
            found = model.evaluate(rollout.cut(batch, rows), want, temperature=self.config.temp, adapters=adapters)
            for name, value in found.items():
                if name == "features":
                    out.setdefault(name, np.zeros((len(mask), value.shape[1]), np.float32))[rows] = value
                else:
                    whole = out.setdefault(name, np.zeros((*mask.shape, *value.shape[2:]), np.float32))
                    whole[rows, : value.shape[1]] = value
        return {name: self._whole(value) for name, value in out.items()}

    def _whole(self, array: np.ndarray) -> np.ndarray:
        """An array of which every process has filled its own rows, the others zero."""
        return parallel.gather(self.policy, array).sum(axis=0)

    def _sample(self, prompts: Sequence[Sequence[int]], uniforms: np.ndarray) -> list[list[int]]:
        """A response to each prompt, each process sampling its share."""
        c, own = self.config, parallel.share(len(prompts), self.policy)
        found = self.policy.generate(
            [prompts[i] for i in own],
            uniforms=uniforms[own],
            temperature=c.temp,
            max_tokens=c.max_tokens,
            stop_ids=self.end_ids,
            pad_id=self.pad_id,
        )
        tokens = np.zeros((len(prompts), c.max_tokens + 1), np.int32)  # the first column holds the length
        for i, response in zip(own, found):
            tokens[i, 0], tokens[i, 1 : len(response) + 1] = len(response), response
        return [row[1 : row[0] + 1].tolist() for row in self._whole(tokens)]

    def _score(self, rows: Sequence, responses: list[list[int]], features: np.ndarray) -> dict[str, np.ndarray]:
        """What `score` gives for every response, each process scoring its share: tests that are run may not repeat."""
        own = parallel.share(len(rows), self.policy)
        found = self.score([rows[i] for i in own], [responses[i] for i in own], features[own])
        out = {name: np.zeros(len(rows), np.float32) for name in found}
        for name, values in found.items():
            out[name][own] = values
        return {name: self._whole(values) for name, values in out.items()}

    def _check_first(self, metrics: dict[str, float]) -> None:
        error = np.sqrt(metrics["val/ratio_error"])
        if not error < RATIO_TOLERANCE[self.config.dtype]:
            raise UserError(
                f"the policy ratio is off by {error:.2g} on the first minibatch, where it must be 1: the "
                "rollout and the training forward disagree (masks, temperature or precision)"
            )

    def _check_rollout(self, metrics: dict[str, float]) -> None:
        if not all(np.isfinite(v) for v in metrics.values()):
            broken = next(k for k, v in metrics.items() if not np.isfinite(v))
            raise UserError(f"{broken} is not finite: the policy has diverged; resume with a lower --learning-rate")
        self._runaways = self._runaways + 1 if metrics["objective/kl"] > self.config.kl_limit else 0
        if self._runaways >= 3:
            raise UserError(
                f"KL stayed above --kl-limit {self.config.kl_limit:g} nats per response for three updates: "
                "the policy runs away from its reference; lower --learning-rate or raise --kl-coef"
            )
        if metrics["objective/entropy"] < 1e-3:
            raise UserError(
                "entropy has collapsed to zero: every response is the same; lower --learning-rate, raise "
                "--kl-coef or set --entropy-coef 0.01"
            )


# --- the stage -----------------------------------------------------------------------------------------------------


def run(config: PPOConfig) -> dict:
    """Align the tools checkpoint and write weights/SIZE/rlhf. Returns the figures of summary.json."""
    return align(config, "rlhf")


def align(config: PPOConfig | GRPOConfig, stage: str) -> dict:
    """Optimise the tools checkpoint for --reward and write weights/SIZE/STAGE. Returns the figures of summary.json."""
    components = parse_reward(config.reward)
    if config.kl_target and not config.kl_coef:
        raise UserError(
            f"--kl-target {config.kl_target:g} raises --kl-coef step by step, which cannot start at 0; "
            "give one such as 0.05"
        )
    source, model_config, tokenizer = folders.open_checkpoint(config, "tools", config.checkpoint)
    prompts = requests.load_prompts(Path(config.prompts)) if config.prompts else load_prompts(config, ("train",))
    prompts = requests.with_tests(prompts)
    encoded = encode_prompts(prompts, tokenizer)
    check_context(encoded, config.max_tokens, model_config.max_positions)
    backend = backends.load(config.backend, config.device)
    plan.check(config, model_config, backend, prompt=max(map(len, encoded)))
    score, accuracy = rewards_for(config, components, prompts, backend, tokenizer)
    out = folders.output(config, stage)
    points = SavePoints(out)
    found = resume_from(points, config, print)
    critic = isinstance(config, PPOConfig)
    settings = dict(folder=source, seed=config.seed, dtype=config.dtype)
    judged = {c.name: c.weight for c in components}.get("model")
    value_start = None
    if critic and judged:
        value_start = critic_start(folders.reward_model(config), tokenizer, judged)
    policy = backend.Model(
        model_config,
        lora_rank=config.lora_rank,
        lora_scale=config.lora_scale,
        max_grad_norm=config.max_grad_norm,
        value_head=critic,
        value_start=value_start,
        head_learning_rate=config.value_learning_rate if critic else None,
        keep_reference_head=critic and config.kl_in_loss,
        optimizer_dtype=config.optimizer_dtype,
        gradient_checkpointing=config.gradient_checkpointing,
        **settings,
    )
    # With adapters the reference is the same trunk with them off: one trunk, four roles.
    reference = policy if config.lora_rank else backend.Model(model_config, **settings)
    ppo = PPO(config, policy, reference, score, end_ids=tokenizer.ends, pad_id=tokenizer.pad_id)
    start = 0
    if found:
        policy.load_state(found[0])
        start, ppo.controller.beta = found[1]["step"], found[1]["beta"]
    total = config.num_epochs * config.steps_per_epoch

    def keep(step: int) -> None:
        if parallel.first():
            points.save(step, policy.named_arrays(), {"config": to_json(config), "beta": ppo.controller.beta})

    def update(step: int) -> tuple[dict, int]:
        rows = pick(len(encoded), config.batch_size, config.seed, step)
        rate = config.rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
        metrics = ppo.update(
            [encoded[i] for i in rows], np.random.default_rng([config.seed, step]), rate, [prompts[i] for i in rows]
        )
        return metrics, int(metrics["response/length"] * config.batch_size * config.responses_per_prompt)

    log = RunLog(
        out / "run", "ppo" if critic else "grpo", total, to_json(config), start=start, memory=backend.peak_memory
    )
    figures = loop(
        config,
        log,
        start,
        total,
        update,
        keep,
        summarise,
        lambda rows: diagnosis.rollouts(rows, reward_accuracy=accuracy),
        agree=lambda flag: parallel.any_of(policy, flag),
    )
    if parallel.first():
        with atomic_folder(out) as folder:
            folders.save_checkpoint(policy, folder, tokenizer)
    return figures


def rewards_for(
    config: PPOConfig | GRPOConfig, components: Sequence[Component], prompts: Sequence[dict], backend, tokenizer
) -> tuple[Rewards, float | None]:
    """What --reward asks for, and the reward model's held-out accuracy where there is one.

    Raises UserError when a prompt lacks what a component needs.
    """
    model, accuracy, names = None, None, [c.name for c in components]
    if "model" in names:
        folder = folders.reward_model(config)
        judge = scorer(folder, backend, tokenizer, dtype=config.dtype)
        accuracy = read_description(folder, tokenizer).get("val_accuracy")

        def model(rows, responses, features):
            return judge(encode_prompts(rows, tokenizer), responses, features)

    if "tests" in names:
        for number, row in enumerate(prompts, start=1):
            if not row["tests"]:
                raise UserError(
                    f"--reward tests: prompt {number} ({row['prompt'][:60]!r}) has no tests; give it a "
                    '"task" of the bank, or "tests": ["assert ..."], in the --prompts file'
                )
    pass_rate = not config.no_pass_rate and any(row["tests"] for row in prompts)
    if pass_rate and "tests" not in names and not config.unsafe_exec and runner.level() == "none":
        print("objective/pass_rate is left out: this machine has no sandbox, and --unsafe-exec is not given")
        pass_rate = False
    return Rewards(components, tokenizer, model=model, pass_rate=pass_rate, unsafe=config.unsafe_exec), accuracy


def summarise(rows: Sequence[dict]) -> dict:
    """First against last ten updates: reward with its spread, its components, KL, length."""
    first, last = rows[:10], rows[-10:]

    def mean(some: Sequence[dict], key: str) -> float:
        return float(np.mean([row[key] for row in some if row.get(key) is not None]))

    parts = [
        key
        for key in first[0]
        if key in last[-1] and (key == "objective/pass_rate" or key.startswith("objective/reward/"))
    ]
    compared = {
        f"{key.removeprefix('objective/')}_{name}": mean(some, key)
        for key in parts
        for name, some in (("first10", first), ("last10", last))
    }
    return {
        "updates": len(rows),
        "reward_first10": mean(first, "objective/scores"),
        "reward_last10": mean(last, "objective/scores"),
        "reward_last10_std": float(np.std([row["objective/scores"] for row in last])),
        "reward_first10_std": float(np.std([row["objective/scores"] for row in first])),
        **compared,
        "kl_last": mean(last, "objective/kl"),
        "length_first10": mean(first, "response/length"),
        "length_last10": mean(last, "response/length"),
        "seconds": float(np.sum([row["time/seconds"] for row in rows])),
    }
