"""PPO on a language model: rollout, scoring, advantages, clipped updates (Schulman 2017; Ziegler 2019; Huang 2024).

`PPO.update` is one update, its seven steps numbered where they happen. GRPO (stages/grpo.py) says what differs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlxrlhf import parallel
from mlxrlhf.algorithms import advantages, losses, rollout
from mlxrlhf.algorithms.schedule import constant_with_warmup
from mlxrlhf.backends.protocol import Batch, Model, Objective
from mlxrlhf.config import PolicyConfig, PPOConfig
from mlxrlhf.data.batches import pick
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders
from mlxrlhf.models.identity import data_digest
from mlxrlhf.report import diagnosis
from mlxrlhf.rewards.components import Component, Rewards, parse_reward
from mlxrlhf.rewards.model import RewardModel
from mlxrlhf.sandbox import runner
from mlxrlhf.settings import shown
from mlxrlhf.stages.run import Run, Training
from mlxrlhf.stages.sampling import encode_prompts, prompts_of, sample

#: root mean square of (ratio - 1) allowed on the first minibatch, where old and new policy are the same. In bfloat16
#: rounding alone makes up to 0.01: a batch of other rows takes other kernels
RATIO_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
#: updates in a row above --kl-limit that stop a run
RUNAWAYS_IN_A_ROW = 3

#: (rows, responses, features (B, d) float32) -> {"scores": (B,), and other measures by name}: what responses are worth
Score = Callable[[Sequence[Any], Sequence[Sequence[int]], np.ndarray], dict[str, np.ndarray]]


def run(config: PPOConfig) -> dict[str, Any]:
    """Align the tools checkpoint and write weights/SIZE/rlhf. Returns the figures of summary.json."""
    return align(config, PPO)


def align(config: PolicyConfig, algorithm: type[PPO]) -> dict[str, Any]:
    """Optimise the tools checkpoint for --reward and write weights/SIZE/STAGE. Returns the figures of summary.json."""
    components = parse_reward(config.reward)
    check_penalty(config)
    checkpoint = folders.open_checkpoint(config, "tools", config.checkpoint)
    rows, prompts = prompts_of(config, checkpoint.tokenizer, checkpoint.shape.max_positions)
    reward_model = None
    if pays_model(components):
        reward_model = RewardModel.open(folders.reward_model(config), checkpoint.tokenizer)
    uses = {"set of prompts": [rows, prompts], "reward": reward_parts(components, reward_model)}
    with Run(config, algorithm.stage, checkpoint, uses=uses, prompt=max(map(len, prompts))) as run:
        score = rewards_for(config, components, rows, run, reward_model)
        policy = run.model(**algorithm.model_settings(run, components, reward_model))
        # With adapters the reference is the same trunk with them off: one trunk, four roles.
        reference = policy if config.lora_rank else run.frozen_model()
        training = algorithm(
            config,
            policy,
            reference,
            score,
            end_ids=run.tokenizer.ends,
            pad_id=run.tokenizer.pad_id,
            prompts=prompts,
            rows=rows,
        )
        training.reward_accuracy = reward_model.accuracy if reward_model else None
        return run.train(training)


class PPO(Training):
    """One policy under optimisation, with what an update needs around it.

    policy, reference: `protocol.Model`; with LoRA they are one object, and the reference is its adapters switched off.
    prompts, rows: what the updates draw from: ids, and what the caller knows of each prompt. reward_accuracy: the
    reward model's share of held-out pairs right, for the verdict.
    """

    stage, title, unit = "rlhf", "ppo", "update"

    def __init__(
        self,
        config: Any,
        policy: Model,
        reference: Model,
        score: Score,
        *,
        end_ids: Sequence[int],
        pad_id: int,
        prompts: Sequence[Sequence[int]] = (),
        rows: Sequence[dict] = (),
    ):
        self.config, self.policy, self.reference, self.score = config, policy, reference, score
        self.model, self.total = policy, config.num_epochs * config.steps_per_epoch
        self.end_ids, self.pad_id = list(end_ids), pad_id
        self.prompts, self.rows = prompts, rows
        self.reward_accuracy: float | None = None
        self.controller = advantages.KLController(config.kl_coef, config.kl_target)
        self.objective = self._objective()
        self._runaways = 0

    # --- what differs between algorithms: see stages/grpo.py ----------------------------------------------------------

    @classmethod
    def model_settings(
        cls, run: Run[Any], components: Sequence[Component], reward_model: RewardModel | None
    ) -> dict[str, Any]:
        """What the policy has beside its trunk: a value head, which starts as the reward model where there is one."""
        start = None
        if reward_model:
            weight = next(component.weight for component in components if component.name == "model")
            start = reward_model.critic_start(run.source, weight, run.config.quantize)
        return {
            "value_head": True,
            "value_start": start,
            "head_learning_rate": run.config.value_learning_rate,
            "keep_reference_head": run.config.kl_in_loss,
        }

    @property
    def rollout_outputs(self) -> tuple[str, ...]:
        """Outputs of the policy's forward over a rollout."""
        return ("logp", "entropy", "value")

    @property
    def reference_outputs(self) -> tuple[str, ...]:
        """Outputs of the frozen trunk's forward over a rollout."""
        hidden = ("hidden",) if self.config.kl_in_loss else ()
        return ("logp", "features", *hidden)

    @property
    def step_outputs(self) -> tuple[str, ...]:
        """Outputs of a training forward."""
        wanted = {"entropy": self.config.entropy_coef, "kl": self.config.kl_in_loss}
        return ("logp", "value", *(name for name, asked in wanted.items() if asked))

    def _objective(self) -> Objective:
        c = self.config
        return losses.ppo_objective(
            clip=c.clip,
            value_clip=c.value_clip,
            vf_coef=c.vf_coef,
            entropy_coef=c.entropy_coef,
            kl_in_loss=c.kl_in_loss,
        )

    def _estimate(self, batch: Batch, scores: np.ndarray, kl: np.ndarray, old: dict, frozen: dict) -> dict[str, float]:
        """Put advantages and returns into the batch: the KL is part of the reward, values are the baseline."""
        c, mask, values = self.config, batch["mask"], old["value"] * batch["mask"]
        beta = 0.0 if c.kl_in_loss else self.controller.beta
        reward = advantages.shaped_rewards(scores, kl, mask, beta)
        if c.whiten_rewards:
            reward = advantages.whiten(reward, mask, shift_mean=False)
        advantage, returns = advantages.gae(reward, values, mask, c.gamma, c.lam)
        batch["old_value"] = values.astype(np.float32)
        batch["advantages"] = advantage
        batch["returns"] = returns
        if c.kl_in_loss:
            batch["reference_hidden"] = frozen["hidden"]
        return {"value/explained_variance": advantages.explained_variance(values, returns, mask)}

    def _normalised(self, advantage: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Advantages as the steps take them, (B, R)."""
        return advantages.whiten(advantage, mask, shift_mean=True)

    def _weights(self, mask: np.ndarray) -> np.ndarray | None:
        """What the tokens of a minibatch weigh, (B, R); None where it is all the same."""
        return None

    # --- one update ---------------------------------------------------------------------------------------------------

    def update(
        self,
        prompts: Sequence[Sequence[int]],
        rng: np.random.Generator,
        learning_rate: float,
        rows: Sequence | None = None,
    ) -> dict[str, float]:
        """One whole update. Raises UserError in plain words, before the policy has moved, when an invariant breaks."""
        c = self.config
        batch, metrics = self.collect(prompts, rng, rows)  # steps 1 to 5
        self._check_rollout(metrics)
        mask = batch["mask"]
        metrics["lr"] = learning_rate
        if np.ptp(batch["advantages"][mask > 0]) < 1e-8:
            # Adam scales any gradient to a full-size step: without a signal it would follow rounding noise.
            return {**metrics, "skipped": 1.0}
        batch["advantages"] = self._normalised(batch["advantages"], mask)

        # 6. Passes of clipped steps over shuffled minibatches. In the first one the policy is still the rollout's.
        steps: list[dict[str, float]] = []
        for _ in range(c.ppo_epochs):
            order = rng.permutation(len(mask))
            for chosen in np.array_split(order, math.ceil(len(mask) / c.mini_batch_size)):
                figures = self.policy.step(
                    self.objective,
                    self._micro_batches(batch, chosen),
                    want=self.step_outputs,
                    learning_rate=learning_rate,
                    temperature=c.temp,
                    check=None if steps else self._check_ratio,
                )
                steps.append(figures)
        for name in steps[0]:
            metrics[name] = float(np.mean([step[name] for step in steps]))
        metrics["time/traces"] = self.policy.traces

        # 7. Move beta towards its target.
        self.controller.update(metrics["objective/kl"])
        return metrics

    def collect(
        self, prompts: Sequence[Sequence[int]], rng: np.random.Generator, rows: Sequence | None = None
    ) -> tuple[Batch, dict[str, float]]:
        """Steps 1 to 5. Returns the training batch and the metrics of the rollout."""
        c, beta = self.config, self.controller.beta
        rows = [row for row in (prompts if rows is None else rows) for _ in range(c.responses_per_prompt)]
        prompts = [prompt for prompt in prompts for _ in range(c.responses_per_prompt)]

        # 1. Sample responses at the training temperature, nothing cut from the distribution.
        uniforms = rng.random((len(prompts), c.max_tokens))
        responses = sample(
            self.policy, prompts, uniforms, temperature=c.temp, stop_ids=self.end_ids, pad_id=self.pad_id
        )
        batch = rollout.arrange(prompts, responses, self.pad_id)
        mask = batch["mask"]

        # 2. Log-probabilities (and values) by the training forward, never those of decoding.
        old = self._forward(self.policy, batch, self.rollout_outputs)

        # 3. One forward of the frozen trunk: the reference's log-probabilities and the reward head's features.
        frozen = self._forward(self.reference, batch, self.reference_outputs, adapters=False)

        # 4. Score what --reward names, and subtract the penalty for a missing end.
        finished = rollout.ends(responses, self.end_ids)
        began = time.monotonic()
        measures = self._score(rows, responses, frozen["features"])
        scoring_seconds = time.monotonic() - began
        scores = measures["scores"]
        penalised = scores - c.missing_end_penalty * ~finished
        kl = advantages.kl_estimate(old["logp"], frozen["logp"]) * mask
        kl_sum = float(kl.sum(axis=1).mean())
        metrics = {
            **{f"objective/{name}": mean_of(values) for name, values in measures.items()},
            "objective/scores_std": float(scores.std()),
            "objective/kl": kl_sum,
            "objective/entropy": float((old["entropy"] * mask).sum() / mask.sum()),
            "objective/non_score_reward": -beta * kl_sum,
            "objective/rlhf_reward": float(penalised.mean()) - beta * kl_sum,
            "response/length": float(mask.sum(axis=1).mean()),
            "response/truncated": float(1 - finished.mean()),
            "kl_coef": beta,
            "time/scoring": scoring_seconds,
        }

        # 5. Advantages.
        batch["old_logp"] = old["logp"]
        metrics |= self._estimate(batch, penalised, kl, old, frozen)
        return batch, {name: value for name, value in metrics.items() if value is not None}

    def _micro_batches(self, batch: Batch, chosen: np.ndarray) -> list[Batch]:
        """This process's rows of a minibatch, in parts of similar length, normalised by the whole of it."""
        mask = batch["mask"]
        whole = batch.copy()
        whole["total"] = np.float32(mask[chosen].sum())
        whole["kl_coef"] = np.float32(self.controller.beta)
        weights = self._weights(mask[chosen])
        if weights is not None:
            whole["weight"] = np.zeros_like(mask)
            whole["weight"][chosen] = weights
        own = chosen[parallel.share(len(chosen), self.policy)]
        return [rollout.cut(whole, part) for part in rollout.by_length(batch, own, self.config.micro_batch_size)]

    def _forward(self, model: Model, batch: Batch, want: Sequence[str], adapters: bool = True) -> dict[str, np.ndarray]:
        """`model.evaluate` over the whole batch, in micro-batches of similar length; zero behind a response's end."""
        mask = batch["mask"]
        outputs: dict[str, np.ndarray] = {}
        own = parallel.share(len(mask), self.policy)
        for rows in rollout.by_length(batch, own, self.config.micro_batch_size):
            computed = model.evaluate(rollout.cut(batch, rows), want, temperature=self.config.temp, adapters=adapters)
            for name, value in computed.items():
                if name == "features":
                    outputs.setdefault(name, np.zeros((len(mask), value.shape[1]), np.float32))[rows] = value
                else:
                    shape = (*mask.shape, *value.shape[2:])
                    outputs.setdefault(name, np.zeros(shape, np.float32))[rows, : value.shape[1]] = value
        return {name: self._from_all_processes(value) for name, value in outputs.items()}

    def _from_all_processes(self, array: np.ndarray) -> np.ndarray:
        """An array of which every process has filled its own rows, the others zero."""
        return parallel.gather(self.policy, array).sum(axis=0)

    def _score(self, rows: Sequence, responses: list[list[int]], features: np.ndarray) -> dict[str, np.ndarray]:
        """What `score` gives for every response, each process scoring its share: tests that are run may not repeat."""
        own = parallel.share(len(rows), self.policy)
        scored = self.score([rows[i] for i in own], [responses[i] for i in own], features[own])
        measures = {}
        for name, values in scored.items():
            measures[name] = np.zeros(len(rows), np.float32)
            measures[name][own] = values
        return {name: self._from_all_processes(values) for name, values in measures.items()}

    # --- invariants ---------------------------------------------------------------------------------------------------

    def _check_ratio(self, metrics: Mapping[str, float]) -> None:
        error = np.sqrt(metrics["val/ratio_error"])
        if not error < RATIO_TOLERANCE[self.config.dtype]:
            raise UserError(
                f"the policy ratio is off by {error:.2g} on the first minibatch, where it must be 1: the "
                "rollout and the training forward disagree (masks, temperature or precision)"
            )

    def _check_rollout(self, metrics: Mapping[str, float]) -> None:
        broken = next((name for name, value in metrics.items() if not np.isfinite(value)), None)
        if broken:
            raise UserError(f"{broken} is not finite: the policy has diverged; resume with a lower --learning-rate")
        self._runaways = self._runaways + 1 if metrics["objective/kl"] > self.config.kl_limit else 0
        if self._runaways >= RUNAWAYS_IN_A_ROW:
            raise UserError(
                f"KL stayed above --kl-limit {self.config.kl_limit:g} nats per response for three updates: "
                "the policy runs away from its reference; lower --learning-rate or raise --kl-coef"
            )
        if metrics["objective/entropy"] < 1e-3:
            raise UserError(
                "entropy has collapsed to zero: every response is the same; lower --learning-rate, raise "
                "--kl-coef or set --entropy-coef 0.01"
            )

    # --- the run ------------------------------------------------------------------------------------------------------

    def step(self, number: int) -> tuple[dict[str, float], int]:
        c = self.config
        chosen = pick(len(self.prompts), c.batch_size, c.seed, number)
        metrics = self.update(
            [self.prompts[i] for i in chosen],
            np.random.default_rng([c.seed, number]),
            constant_with_warmup(number, peak=c.rate, warmup=c.warmup_steps),
            [self.rows[i] for i in chosen],
        )
        return metrics, int(metrics["response/length"] * c.batch_size * c.responses_per_prompt)

    def state(self) -> dict[str, Any]:
        return {"beta": self.controller.beta, "runaways": self._runaways}

    def load_state(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        super().load_state(arrays, state)
        self._runaways = state.get("runaways", 0)
        if state["config"]["kl_coef"] == self.config.kl_coef:  # another --kl-coef starts the controller anew
            self.controller.beta = state["beta"]

    def summary(self, rows: Sequence[dict]) -> dict[str, Any]:
        return summarise(rows) if rows else {}

    def verdict(self, rows: Sequence[dict]) -> list[diagnosis.Finding]:
        return diagnosis.rollouts(rows, reward_accuracy=self.reward_accuracy)


# --- what a run is made of -------------------------------------------------------------------------------------------


def check_penalty(config: PolicyConfig) -> None:
    """Raises UserError for a target that the penalty cannot be moved to."""
    if config.kl_target and not config.kl_coef:
        raise UserError(
            f"--kl-target {config.kl_target:g} raises --kl-coef step by step, which cannot start at 0; "
            "give one such as 0.05"
        )


def reward_parts(components: Sequence[Component], model: RewardModel | None) -> list[str]:
    """Digests of what the reward is made of: the reward model's head and base, the files of own functions."""
    parts = [data_digest([component.function.path]) for component in components if component.function]
    if model:
        parts += [model.base_digest, data_digest(sorted(model.folder.glob("*.safetensors")))]
    return parts


def pays_model(components: Sequence[Component]) -> bool:
    """Whether the reward model is among what is paid for."""
    return any(component.name == "model" for component in components)


def rewards_for(
    config: PolicyConfig,
    components: Sequence[Component],
    rows: Sequence[dict],
    run: Run,
    reward_model: RewardModel | None,
) -> Rewards:
    """What --reward asks for. Raises UserError when a prompt lacks what a component needs."""
    judge = None
    if reward_model:
        score = reward_model.scorer(
            run.backend, run.tokenizer, run.source, dtype=config.dtype, quantize=config.quantize
        )

        def judge(rows, responses, features):
            return score(encode_prompts(rows, run.tokenizer), responses, features)

    tests = any(component.name == "tests" for component in components)
    if tests:
        check_tests(rows)
    pass_rate = not config.no_pass_rate and any(row["tests"] for row in rows)
    if pass_rate and not tests and not config.unsafe_exec and runner.level() == "none":
        print("objective/pass_rate is left out: this machine has no sandbox, and --unsafe-exec is not given")
        pass_rate = False
    return Rewards(components, run.tokenizer, model=judge, pass_rate=pass_rate, unsafe=config.unsafe_exec)


def check_tests(rows: Sequence[dict]) -> None:
    """Raises UserError for the first prompt without tests."""
    for number, row in enumerate(rows, start=1):
        if not row["tests"]:
            raise UserError(
                f"--reward tests: prompt {number} ({shown(row['prompt'])}) has no tests; give it a "
                '"task" of the bank, or "tests": ["assert ..."], in the --prompts file'
            )


def mean_of(values: np.ndarray) -> float | None:
    """Mean of the rows that a measure applies to (the others are NaN); None where it applies to none."""
    applies = values[~np.isnan(values)]
    return float(applies.mean()) if len(applies) else None


def summarise(rows: Sequence[dict]) -> dict[str, Any]:
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
