"""mlx-lm: batched generation, or a full fine-tuning step.

python mlx_lm_loop.py FOLDER generate|step
"""

import argparse
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.generate import BatchGenerator
from mlx_lm.tuner.trainer import default_loss
from mlx_lm.utils import load_model
from timing import report

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("what", choices=("generate", "step"))
for name, default in dict(batch=16, prompt=32, response=64, rows=8, length=256, repeat=4).items():
    parser.add_argument(f"--{name}", type=int, default=default)
a = parser.parse_args()
model, config = load_model(Path(a.folder))
model.set_dtype(mx.float32)
mx.eval(model.parameters())
rng = np.random.default_rng(0)
size = config["vocab_size"]
if a.what == "generate":
    work = a.batch * a.response

    def once():
        """Greedy, which spares mlx-lm the sampling that ours does; the end token is out of reach."""
        generator = BatchGenerator(
            model, max_tokens=a.response, completion_batch_size=a.batch, prefill_batch_size=a.batch
        )
        generator.insert(rng.integers(0, size - 4, (a.batch, a.prompt)).tolist())
        count = 0
        while count < work:
            found = generator.next_generated()
            if not found:
                break
            count += len(found)
        assert count == work
        generator.close()
else:
    optimizer = optim.AdamW(1e-5)
    gradient = nn.value_and_grad(model, default_loss)
    state = [model.state, optimizer.state]
    tokens = mx.array(rng.integers(0, size - 4, (a.rows, a.length + 1)))
    lengths = mx.array([[0, a.length + 1]] * a.rows)
    work = a.rows * a.length

    @partial(mx.compile, inputs=state, outputs=state)
    def step(tokens, lengths):
        (loss, _), gradients = gradient(model, tokens, lengths)
        optimizer.update(model, gradients)
        return loss

    def once():
        mx.eval(step(tokens, lengths), state)


report(once, work, a.repeat)
