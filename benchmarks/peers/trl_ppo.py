"""PPO with TRL on the CPU: policy, reference, and reward and value models that are classification heads on trunks.

python trl_ppo.py FOLDER [--batch 16] [--prompt 32] [--response 64] [--epochs 4] [--updates 3] [--lora]
"""

import argparse
import json
import os
import resource
import tempfile
import time

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer

parser = argparse.ArgumentParser()
parser.add_argument("folder")
for name, default in dict(batch=16, prompt=32, response=64, epochs=4, updates=3).items():
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--lora", action="store_true")
a = parser.parse_args()
torch.manual_seed(0)
with open(f"{a.folder}/config.json") as stream:
    size = json.load(stream)["vocab_size"]
vocabulary = {f"t{i}": i for i in range(size - 3)} | {"<pad>": size - 3, "<eos>": size - 2, "<unk>": size - 1}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>")),
    pad_token="<pad>",
    eos_token="<eos>",
    unk_token="<unk>",
    padding_side="left",
)


def causal():
    return AutoModelForCausalLM.from_pretrained(a.folder, dtype=torch.float32)


def scalar():
    model = AutoModelForSequenceClassification.from_pretrained(a.folder, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


episodes = a.batch * a.updates
prompts = np.random.default_rng(0).integers(0, size - 4, (episodes, a.prompt))
data = Dataset.from_dict({"input_ids": prompts.tolist()})
with tempfile.TemporaryDirectory() as folder:
    config = PPOConfig(
        output_dir=folder,
        use_cpu=True,
        per_device_train_batch_size=a.batch,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=a.epochs,
        total_episodes=episodes,
        response_length=a.response,
        local_rollout_forward_batch_size=a.batch,
        learning_rate=1e-6,
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        bf16=False,
        logging_steps=1000,
        disable_tqdm=True,
        kl_coef=0.05,
    )
    adapters = LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM", target_modules="all-linear") if a.lora else None
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=causal(),
        ref_model=None if a.lora else causal(),
        reward_model=scalar(),
        value_model=scalar(),
        peft_config=adapters,
        train_dataset=data,
        eval_dataset=data.select(range(min(4, episodes))),
    )
    times, log = [time.perf_counter()], trainer.log

    def timed(*arguments, **settings):
        times.append(time.perf_counter())
        return log(*arguments, **settings)

    trainer.log = timed
    trainer.train()
seconds = np.diff(times)
print(
    json.dumps(
        {
            "rate": a.batch / float(np.median(seconds[1:] if len(seconds) > 1 else seconds)),
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
    )
)
