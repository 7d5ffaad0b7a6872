"""transformers on PyTorch: batched sampling, or a full fine-tuning step with AdamW.

    python transformers_loop.py FOLDER generate|step
"""

import argparse

import torch
from timing import report
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("what", choices=("generate", "step"))
for name, default in dict(batch=16, prompt=32, response=64, rows=8, length=256, repeat=4).items():
    parser.add_argument(f"--{name}", type=int, default=default)
a = parser.parse_args()
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(a.folder, dtype=torch.float32)
size = model.config.vocab_size
if a.what == "generate":
    tokens = torch.randint(0, size - 4, (a.batch, a.prompt))
    work = a.batch * a.response

    @torch.no_grad()
    def once():
        model.generate(tokens, do_sample=True, top_k=0, min_new_tokens=a.response, max_new_tokens=a.response,
                       pad_token_id=size - 3)
else:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    tokens = torch.randint(0, size - 4, (a.rows, a.length + 1))
    work = a.rows * a.length

    def once():
        logits = model(tokens[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

report(once, work, a.repeat)
