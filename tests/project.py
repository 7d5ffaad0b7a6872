"""The folder that the tests of whole commands share: every stage once, small, with the flags that a user has."""

import json

from helpers import mlxrlhf

MLX = ["--backend", "mlx"]
SMALL = ["--batch-size", "4", "--sequence-length", "128", "--eval-batches", "1", "--warmup-steps", "2", *MLX]


def flags(line):
    """The words of a command, as a shell splits them."""
    return line.split()


STAGES = {
    "language": ["pretrain", "--steps-per-epoch", "6", *SMALL],
    "code": ["finetune", "--stage", "code", "--steps-per-epoch", "6", *SMALL],
    "tools": ["finetune", "--stage", "tools", "--steps-per-epoch", "4", *SMALL],
    "reward": flags("reward --num-epochs 3 --batch-size 32 --samples 1 --max-tokens 8") + MLX,
    "rlhf": flags("ppo --steps-per-epoch 4 --batch-size 4 --mini-batch-size 2 --max-tokens 12 --learning-rate 1e-3")
    + MLX,
    "grpo": flags(
        "grpo --steps-per-epoch 4 --batch-size 2 --responses-per-prompt 3 --max-tokens 12 --mini-batch-size 3 "
        "--learning-rate 1e-3 --reward mine.py:letters,lint:0.5"
    )
    + MLX,
    "dpo": flags("dpo --data own_pairs.jsonl --batch-size 4 --learning-rate 1e-3 --eval-every 2") + MLX,
}
OWN_REWARD = """
def letters(prompts, responses, task, **rows):
    assert len(task) == len(prompts) == len(responses)
    return [sum(map(str.isalpha, response)) / 20 for response in responses]
"""


def on(backend, stage):
    """A stage's command on another backend."""
    return [word if word != "mlx" else backend for word in STAGES[stage]]


def build(folder):
    """Prepare the data and run every stage."""
    said = mlxrlhf(folder, *flags("prepare all --max-characters 400000 --dialogues 60 --pairs 100")).all
    assert "left out" in said and "held-out pairs" in said
    (folder / "mine.py").write_text(OWN_REWARD)
    pairs = [{"prompt": f"Add {i}.", "chosen": f"return x + {i}", "rejected": f"print({i})"} for i in range(24)]
    (folder / "own_pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    for arguments in STAGES.values():
        mlxrlhf(folder, *arguments)
