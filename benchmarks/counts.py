"""What carries over from a CPU to Metal: operations, evaluations, reads by the host, traces, peak bytes.

    .venv-bench/bin/python benchmarks/counts.py

Runs sampling, a fine-tuning step and ten PPO updates of size nano on MLX with every evaluation and every array that the
host asks for counted, and writes counts.json beside this file. F is one forward over prompts and responses.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mlxrlhf import backends, plan
from mlxrlhf.algorithms import losses
from mlxrlhf.config import SIZES, PPOConfig
from mlxrlhf.stages.ppo import PPO

BACKEND = backends.load("mlx", "cpu")
import mlx.core as mx  # noqa: E402  (after the backend: it loads the fast BLAS first)

HERE, C = Path(__file__).parent, SIZES["nano"]
PROMPT, RESPONSE, ROWS = 32, 64, 16


class Counter:
    """Counts calls of mx.eval and mx.async_eval, and conversions of MLX arrays to NumPy, Python lists and numbers."""

    def __init__(self):
        self.evaluations = self.reads = 0
        for name in ("eval", "async_eval"):
            setattr(mx, name, self._counted(getattr(mx, name), "evaluations"))
        for name in ("item", "tolist", "__array__"):
            if hasattr(mx.array, name):
                setattr(mx.array, name, self._counted(getattr(mx.array, name), "reads"))

    def _counted(self, call, what: str):
        def wrapped(*arguments, **settings):
            setattr(self, what, getattr(self, what) + 1)
            return call(*arguments, **settings)

        return wrapped

    def take(self) -> dict[str, int]:
        """The counts since the last call."""
        found = {"evaluations": self.evaluations, "reads": self.reads}
        self.evaluations = self.reads = 0
        return found


def main() -> None:
    backend, rng = BACKEND, np.random.default_rng(0)
    counter = Counter()

    def prompts(count: int) -> list[list[int]]:
        return [rng.integers(0, C.vocab_size, rng.integers(8, PROMPT)).tolist() for _ in range(count)]

    model = backend.Model(C, weight_decay=0.1)
    counter.take()
    model.generate(
        prompts(ROWS),
        uniforms=rng.random((ROWS, RESPONSE)),
        max_tokens=RESPONSE,
        temperature=1.0,
        stop_ids=[-1],
        pad_id=0,
    )
    found = {"sampling, per token": {name: round(count / RESPONSE, 2) for name, count in counter.take().items()}}

    mask = np.ones((8, 127), np.float32)
    batch = {
        "tokens": rng.integers(0, C.vocab_size, (8, 128), dtype=np.int32),
        "start": np.int32(1),
        "mask": mask,
        "total": np.float32(mask.sum()),
    }
    model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-4)
    found["fine-tuning step"] = counter.take()

    config = PPOConfig(batch_size=ROWS, mini_batch_size=8, micro_batch_size=8, max_tokens=RESPONSE, learning_rate=1e-4)
    policy = backend.Model(C, lora_rank=config.lora_rank, value_head=True)
    # Any of a hundred tokens ends a response, so that lengths differ as they do in earnest.
    ppo = PPO(
        config,
        policy,
        policy,
        lambda rows, responses, features: {"scores": features[:, 0]},
        end_ids=range(100),
        pad_id=0,
    )
    counter.take()
    for update in range(10):
        metrics = ppo.update(prompts(ROWS), np.random.default_rng(update), 1e-4)
        if update == 0:
            found["PPO update, LoRA"] = {
                **counter.take(),
                "optimizer steps": config.ppo_epochs * 2,
                "tokens sampled": int(metrics["response/length"] * ROWS),
                "longest response": RESPONSE,
            }
    found["traces of the compiled step in ten PPO updates"] = policy.traces

    forward = plan.operations(
        plan.Job(C, "float32", evaluate=plan.Batch(ROWS, PROMPT + RESPONSE, RESPONSE), evaluations=1)
    )[0]
    for name, rank in (("every weight", 0), ("LoRA", 16)):
        job = plan.Job.of(
            PPOConfig(
                batch_size=ROWS, mini_batch_size=ROWS, micro_batch_size=ROWS, max_tokens=RESPONSE, lora_rank=rank
            ),
            C,
            PROMPT,
        )
        times = round(sum(plan.operations(job)) / forward, 1)
        found[f"operations of a PPO update of four epochs, {name}, in F"] = times
    found["peak bytes"] = backend.peak_memory()
    (HERE / "counts.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
