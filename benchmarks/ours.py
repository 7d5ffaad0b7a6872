"""Our side of every comparison; prints one JSON line.

    python ours.py FOLDER ppo|generate|step BACKEND [--lora]
"""

import argparse
from pathlib import Path

import numpy as np
from peers.timing import report

from mlxrlhf import backends, checkpoint
from mlxrlhf.algorithms import losses
from mlxrlhf.config import PPOConfig
from mlxrlhf.stages.ppo import PPO

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("what", choices=("ppo", "generate", "step"))
parser.add_argument("backend", choices=("mlx", "torch"))
for name, default in dict(batch=16, prompt=32, response=64, epochs=4, rows=8, length=256, repeat=4).items():
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--lora", action="store_true")
a = parser.parse_args()
backend, c, rng = backends.load(a.backend, "cpu"), checkpoint.read_config(a.folder), np.random.default_rng(0)
prompts = rng.integers(0, c.vocab_size - 4, (a.batch, a.prompt)).tolist()
never = [-1]  # no response ends early, on either side
if a.what == "ppo":
    config = PPOConfig(batch_size=a.batch, mini_batch_size=a.batch, ppo_epochs=a.epochs, max_tokens=a.response,
                       lora_rank=16 * a.lora, learning_rate=1e-6)
    policy = backend.Model(c, folder=a.folder, lora_rank=config.lora_rank, value_head=True, head_learning_rate=1e-6)
    reference = policy if a.lora else backend.Model(c, folder=a.folder)
    head = backend.Head(c.hidden_size)
    ppo = PPO(config, policy, reference, lambda rows, responses, features: {"scores": head.scores(features)},
              end_ids=never, pad_id=0)
    work = a.batch

    def once():
        assert ppo.update(prompts, rng, 1e-6)["grad_norm"] > 0
elif a.what == "generate":
    model, work = backend.Model(c, folder=a.folder), a.batch * a.response

    def once():
        found = model.generate(prompts, uniforms=rng.random((a.batch, a.response)), max_tokens=a.response,
                               temperature=1.0, stop_ids=never, pad_id=0)
        assert sum(map(len, found)) == work
else:
    model, work = backend.Model(c, folder=a.folder, weight_decay=0.01), a.rows * a.length
    tokens = rng.integers(0, c.vocab_size - 4, (a.rows, a.length + 1), dtype=np.int32)
    mask = np.ones((a.rows, a.length), np.float32)
    batch = {"tokens": tokens, "start": np.int32(1), "mask": mask, "total": np.float32(work)}

    def once():
        assert model.step(losses.language_modelling, [batch], want=("logp",), learning_rate=1e-5)["grad_norm"] > 0

report(once, work, a.repeat)
