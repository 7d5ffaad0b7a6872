"""PPO from Python: the shipped model, paid for short answers with a docstring."""

import json
import sys
from pathlib import Path

import mlxrlhf
from mlxrlhf.config import PPOConfig

REQUESTS = ("Write a function that doubles a number.", "Write a function that adds two numbers.")


def main(updates: int = 20) -> None:
    """Train for some updates and print what moved."""
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": request}) + "\n" for request in REQUESTS))
    figures = mlxrlhf.ppo(
        PPOConfig(
            model="shipped",
            prompts="prompts.jsonl",
            reward=f"{Path(__file__).with_name('own_reward.py')}:short_and_documented",
            steps_per_epoch=updates,
            batch_size=16,
            mini_batch_size=8,
            max_tokens=64,
            restart=True,
        )
    )
    print(f"reward {figures['reward_first10']:.2f} -> {figures['reward_last10']:.2f}; wrote {figures['wrote']}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
