"""transformers on PyTorch: batched sampling, a full fine-tuning step with AdamW, or a reward head.

    python transformers_loop.py FOLDER generate|step|reward

The reward head is trained as it is where nothing is cached: the frozen base reads both answers in every epoch.
"""

import argparse

import torch
from timing import report
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("what", choices=("generate", "step", "reward"))
for name, default in dict(batch=16, prompt=32, response=64, rows=8, length=256, repeat=4, pairs=2_000).items():
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
        model.generate(
            tokens, do_sample=True, top_k=0, min_new_tokens=a.response, max_new_tokens=a.response, pad_token_id=size - 3
        )
elif a.what == "reward":
    width, work = model.config.hidden_size, a.pairs
    head = torch.nn.Sequential(torch.nn.Linear(width, width // 2), torch.nn.ReLU(), torch.nn.Linear(width // 2, 1))
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3)
    answers = torch.randint(0, size - 4, (a.pairs, 2, a.prompt + a.response))

    def once():
        for rows in (rows for _ in range(3) for rows in torch.randperm(a.pairs).split(32)):
            with torch.no_grad():
                states = model.model(answers[rows].flatten(0, 1)).last_hidden_state
            chosen, rejected = head(states[:, a.prompt :].mean(dim=1)).reshape(-1, 2).T
            torch.relu(1 - chosen + rejected).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
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
