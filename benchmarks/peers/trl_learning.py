"""TRL's PPO on a reward model of ours: one JSON line for each update, and the policy it ends with.

    python trl_learning.py START REWARD PROMPTS.json OUT [--seed 0] [--learning-rate 1e-4] ...

START is a checkpoint in the Hugging Face layout, REWARD a folder with head.safetensors and reward.json's normaliser.
PROMPTS.json holds `prompts`, the token ids to train on, and `answers`, pairs of prompt and answer ids: TRL's own
get_reward scores those first, so that the caller can see that both sides optimise the same thing; --updates 0 does no
more. Writes OUT/scores.json, OUT/metrics.jsonl and OUT/model.safetensors.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import trl.experimental.ppo.ppo_trainer as trl_ppo
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer

parser = argparse.ArgumentParser()
for name in ("start", "reward", "prompts", "out"):
    parser.add_argument(name, type=Path)
for name, default in dict(batch=64, mini_batches=4, epochs=2, updates=16, response=96, seed=0).items():
    parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
for name, default in dict(
    learning_rate=1e-4,
    kl_coef=0.1,
    temperature=0.7,
    gamma=1.0,
    lam=1.0,
    clip=0.2,
    value_clip=0.2,
    vf_coef=0.1,
    missing_end_penalty=1.0,
).items():
    parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
parser.add_argument(
    "--value-model",
    choices=("fresh", "reward"),
    default="reward",
    help="what the value model starts from: START with a new linear head, or the reward model",
)
parser.add_argument("--lora-rank", type=int, default=0)
parser.add_argument("--lora-scale", type=float, default=2.0)
a = parser.parse_args()
torch.manual_seed(a.seed)
tokenizer = PreTrainedTokenizerFast.from_pretrained(a.start, padding_side="left")
pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
assert pad is not None and pad != end, "TRL reads where an answer stops off its padding: it may not be the end token"
content = json.loads(a.prompts.read_text())
width = max(len(prompt) for prompt in content["prompts"])


class Judge(nn.Module):
    """What get_reward asks of a reward model: a backbone, and a score of its hidden states at every position.

    Position t of an answer gets the score of the answer as far as t: the head on the mean of its hidden states. Before
    the answer there is the state alone, so that the same module can start a value model.
    """

    base_model_prefix = "model"

    def __init__(self, width: int):
        super().__init__()
        self.model, self.width = AutoModel.from_pretrained(a.start, dtype=torch.float32), width
        weights = {k.removeprefix("weights/"): v for k, v in load_file(a.reward / "head.safetensors").items()}
        half, dims = weights["hidden.weight"].shape
        self.hidden, self.out = nn.Linear(dims, half), nn.Linear(half, 1)
        self.load_state_dict(weights, strict=False)
        normaliser = json.loads((a.reward / "reward.json").read_text())["normaliser"]
        self.mean, self.std = normaliser["mean"], normaliser["std"]

    def score(self, states):
        """(B, T, d) to (B, T, 1)"""
        answer = states[:, self.width :]
        so_far = answer.cumsum(dim=1) / torch.arange(1, answer.shape[1] + 1, device=states.device)[:, None]
        pooled = torch.cat([states[:, : self.width], so_far], dim=1)
        return (self.out(torch.relu(self.hidden(pooled))) - self.mean) / self.std


def padded(rows, length, left):
    return torch.tensor(
        [[pad] * (length - len(r)) * left + list(r) + [pad] * (length - len(r)) * (not left) for r in rows]
    )


# The score of given answers, by TRL's own function.
a.out.mkdir(parents=True, exist_ok=True)
questions, answers = zip(*content["answers"])
with torch.no_grad():
    wide, long = max(map(len, questions)), max(map(len, answers)) + 1
    found = trl_ppo.get_reward(
        Judge(wide), torch.cat([padded(questions, wide, True), padded(answers, long, False)], 1), pad, wide
    )[1]
(a.out / "scores.json").write_text(json.dumps(found.tolist()))
if not a.updates:
    raise SystemExit

judge, rows, seen = Judge(width), [], {}
get_reward, began = trl_ppo.get_reward, time.perf_counter()


def recorded(model, sequences, pad_id, context):
    """TRL logs scores less the penalty for a missing end; keep them as the reward model gave them."""
    result = get_reward(model, sequences, pad_id, context)
    if model is judge:
        seen.update(score=result[1].mean().item(), length=(result[2] - context + 1).float().mean().item())
    return result


def causal():
    return AutoModelForCausalLM.from_pretrained(a.start, dtype=torch.float32)


trl_ppo.get_reward = recorded
value = (
    Judge(width)
    if a.value_model == "reward"
    else AutoModelForSequenceClassification.from_pretrained(a.start, num_labels=1, dtype=torch.float32)
)
adapters = None
if a.lora_rank:
    from peft import LoraConfig

    adapters = LoraConfig(
        r=a.lora_rank, lora_alpha=a.lora_scale * a.lora_rank, task_type="CAUSAL_LM", target_modules="all-linear"
    )
prompts = Dataset.from_dict({"input_ids": padded(content["prompts"], width, True).tolist()})
# AdamW as ours: (0.9, 0.95) and 1e-5 where transformers takes (0.9, 0.999) and 1e-8; no decay on either side.
config = PPOConfig(
    output_dir=str(a.out),
    use_cpu=True,
    seed=a.seed,
    per_device_train_batch_size=a.batch,
    gradient_accumulation_steps=1,
    num_mini_batches=a.mini_batches,
    num_ppo_epochs=a.epochs,
    total_episodes=a.batch * a.updates,
    response_length=a.response,
    temperature=a.temperature,
    local_rollout_forward_batch_size=a.batch,
    learning_rate=a.learning_rate,
    lr_scheduler_type="constant",
    adam_beta2=0.95,
    adam_epsilon=1e-5,
    weight_decay=0.0,
    kl_coef=a.kl_coef,
    kl_estimator="k1",
    gamma=a.gamma,
    lam=a.lam,
    cliprange=a.clip,
    cliprange_value=a.value_clip,
    vf_coef=a.vf_coef,
    whiten_rewards=False,
    stop_token="eos",
    missing_eos_penalty=a.missing_end_penalty or None,
    num_sample_generations=0,
    report_to="none",
    save_strategy="no",
    bf16=False,
    gradient_checkpointing=False,
    disable_tqdm=True,
)
trainer = PPOTrainer(
    args=config,
    processing_class=tokenizer,
    model=causal(),
    ref_model=None if adapters else causal(),
    reward_model=judge,
    value_model=value,
    peft_config=adapters,
    train_dataset=prompts,
    eval_dataset=prompts.select(range(4)),
)
log = trainer.log


def keep(metrics, *rest, **settings):
    rows.append({**metrics, **seen, "seconds": time.perf_counter() - began})
    return log(metrics, *rest, **settings)


trainer.log = keep
trainer.train()
(a.out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
policy = trainer.model.policy
(policy.merge_and_unload() if adapters else policy).save_pretrained(a.out)
