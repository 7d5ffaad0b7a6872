"""Our side of every comparison; prints one JSON line.

    python ours.py FOLDER ppo|generate|step|reward BACKEND [--lora] [--dtype bfloat16]

`floor_rate` is what the machine would reach if every operation ran as fast as one large matrix product, or while
sampling, if the weights were read once a token as fast as memory is copied; both are measured after the run.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from peers.timing import report

from mlxrlhf import backends, plan
from mlxrlhf.algorithms import losses
from mlxrlhf.config import PPOConfig, RewardConfig
from mlxrlhf.models import checkpoint
from mlxrlhf.rewards.head import features, train_head
from mlxrlhf.stages.ppo import PPO

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("what", choices=("ppo", "generate", "step", "reward"))
parser.add_argument("backend", choices=("mlx", "torch"))
for name, default in dict(
    batch=16, prompt=32, response=64, epochs=4, rows=8, length=256, repeat=4, pairs=2_000
).items():
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--lora", action="store_true")
parser.add_argument("--dtype", default="float32")
a = parser.parse_args()
backend, c, rng = backends.load(a.backend, "cpu"), checkpoint.read_config(a.folder), np.random.default_rng(0)


def floor() -> float:
    """Seconds of the job at the speed of a large matrix product and of copying memory."""
    passes, decoding = plan.operations(job)
    rate, bandwidth = max(backend.memory.matmul_rate(a.dtype, 1024) for _ in range(3)), copy_rate()
    read = plan.BYTES[a.dtype] * c.parameters() / bandwidth
    steps = job.decode.predicted if job.decode else 0
    return passes / rate + steps * max(decoding / max(1, steps) / rate, read)


def copy_rate() -> float:
    """Bytes per second read and written by a copy of 256 MB."""
    import torch

    source = torch.zeros(2**26)
    target, seconds = torch.empty_like(source), []
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(seconds)


prompts = rng.integers(0, c.vocab_size - 4, (a.batch, a.prompt)).tolist()
never = [-1]  # no response ends early, on either side
if a.what == "ppo":
    config = PPOConfig(
        batch_size=a.batch,
        mini_batch_size=a.batch,
        ppo_epochs=a.epochs,
        max_tokens=a.response,
        lora_rank=16 * a.lora,
        learning_rate=1e-6,
        dtype=a.dtype,
    )
    policy = backend.Model(
        c, folder=a.folder, lora_rank=config.lora_rank, value_head=True, head_learning_rate=1e-6, dtype=a.dtype
    )
    reference = policy if a.lora else backend.Model(c, folder=a.folder, dtype=a.dtype)
    head = backend.Head(c.hidden_size)
    ppo = PPO(
        config,
        policy,
        reference,
        lambda rows, responses, features: {"scores": head.scores(features)},
        end_ids=never,
        pad_id=0,
    )
    work, job = a.batch, plan.Job.of(config, c, a.prompt)

    def once():
        assert ppo.update(prompts, rng, 1e-6)["grad_norm"] > 0
elif a.what == "generate":
    model, work = backend.Model(c, folder=a.folder, dtype=a.dtype), a.batch * a.response
    job = plan.Job(c, a.dtype, decode=plan.Batch(a.batch, a.prompt + a.response, a.response))

    def once():
        found = model.generate(
            prompts,
            uniforms=rng.random((a.batch, a.response)),
            max_tokens=a.response,
            temperature=1.0,
            stop_ids=never,
            pad_id=0,
        )
        assert sum(map(len, found)) == work
elif a.what == "reward":
    config = RewardConfig(num_epochs=3)
    base, head, work = backend.Model(c, folder=a.folder), backend.Head(c.hidden_size), a.pairs
    answers = rng.integers(0, c.vocab_size - 4, (2, a.pairs, a.prompt + a.response)).tolist()
    job = plan.Job(c, a.dtype, evaluate=plan.Batch(2 * a.pairs, a.prompt + a.response, 0), evaluations=1)

    def once():
        found = [features(base, side, [a.prompt] * a.pairs, 0) for side in answers]
        train_head(head, *found, config)
else:
    # Rows as our stages make them: of --length tokens the first is only read. The peers read as many and predict one
    # more, from a row of one token more; work is what is predicted.
    model, work = backend.Model(c, folder=a.folder, weight_decay=0.01, dtype=a.dtype), a.rows * (a.length - 1)
    job = plan.Job(c, a.dtype, train=plan.Batch(a.rows, a.length, a.length - 1))
    tokens = rng.integers(0, c.vocab_size - 4, (a.rows, a.length), dtype=np.int32)
    mask = np.ones((a.rows, a.length - 1), np.float32)
    batch = {"tokens": tokens, "start": np.int32(1), "mask": mask, "total": np.float32(work)}

    def once():
        assert model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-5)["grad_norm"] > 0


report(once, work, a.repeat, floor)
