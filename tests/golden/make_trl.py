"""Golden numbers from TRL 1.12, the last release that carries PPO: run its own lines once, keep what they return.

    pip download --no-deps trl==1.12.0
    python tests/golden/make_trl.py trl-1.12.0-py3-none-any.whl     # writes trl_ppo.json beside this file

The functions and the two blocks of `PPOTrainer.train` are executed as they stand in the wheel; only torch is needed.
"""

import ast
import hashlib
import json
import sys
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace

import torch

SHA256 = "9c8f117b21a941edbc85744f5a341c9453d38e81f24ae81d3c6e9b9ca3b96409"
FUNCTIONS = ("masked_mean", "masked_var", "masked_whiten")


def block(source: str, first: str, last: str) -> str:
    """The lines from the one that contains `first` up to and including the one that contains `last`, dedented."""
    lines = source.splitlines()
    start = next(i for i, line in enumerate(lines) if first in line)
    end = next(i for i in range(start, len(lines)) if last in lines[i])
    return textwrap.dedent("\n".join(lines[start : end + 1]))


def main(wheel: Path) -> None:
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{wheel} is not the trl 1.12.0 wheel that these numbers come from")
    source = zipfile.ZipFile(wheel).read("trl/experimental/ppo/ppo_trainer.py").decode()
    space: dict = {"torch": torch}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS:
            exec(ast.unparse(node), space)
    rewards_block = block(source, "# 4. compute rewards", "rewards[actual_start, actual_end] += scores")
    gae_block = block(source, "lastgaelam = 0", "returns = advantages + values")
    value_block = (
        block(source, "vpredclipped = torch.clamp(", "vf_clipfrac = masked_mean(")
        + "\n    (vf_losses2 > vf_losses1).float(), ~padding_mask_p1[micro_batch_inds]\n)"
    )
    policy_block = block(source, "logprobs_diff = new_logprobs", "pg_loss = masked_mean(")
    clipped = "pg_clipfrac = masked_mean((pg_losses2 > pg_losses).float(), ~padding_mask[micro_batch_inds])"

    generator = torch.Generator().manual_seed(0)

    def draw(scale: float = 1.0) -> torch.Tensor:
        return torch.randn(3, 6, generator=generator, dtype=torch.float64) * scale

    out: dict = {}
    logprobs = draw() - 2
    ref_logprobs, values, scores = logprobs + draw(0.5), draw(), torch.tensor([1.5, -0.5, 0.25], dtype=torch.float64)
    out["inputs"] = {"logp": logprobs, "ref_logp": ref_logprobs, "values": values, "scores": scores}
    for estimator in ("k1", "k3"):
        # Every response fills its row: TRL puts the score one column behind a shorter response's end token.
        args = SimpleNamespace(kl_estimator=estimator, kl_coef=0.1, gamma=0.9, lam=0.8)
        local = {
            **space,
            "args": args,
            "logprobs": logprobs,
            "ref_logprobs": ref_logprobs,
            "values": values,
            "scores": scores,
            "sequence_lengths": torch.full((3,), 5),
            "responses": logprobs,
            "sequence_lengths_p1": torch.full((3,), 6),
        }
        exec(rewards_block, local)
        exec(gae_block, local)
        out[estimator] = {name: local[name] for name in ("kl", "rewards", "advantages", "returns")}
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]).bool()
    x = draw(3.0) + 1
    out["whiten"] = {
        "x": x,
        "mask": mask.double(),
        "shifted": space["masked_whiten"](x, mask),
        "kept": space["masked_whiten"](x, mask, shift_mean=False),
        "mean": space["masked_mean"](x, mask),
    }
    args = SimpleNamespace(cliprange=0.2, cliprange_value=0.2)
    inputs = {
        "new_logprobs": logprobs + draw(0.3),
        "mb_logprobs": logprobs,
        "mb_advantage": draw(),
        "vpred": values + draw(0.4),
        "mb_values": values,
        "mb_return": values + draw(),
    }
    local = {
        **space,
        **inputs,
        "args": args,
        "padding_mask": ~mask,
        "padding_mask_p1": ~mask,
        "micro_batch_inds": slice(None),
    }
    for code in (
        value_block,
        policy_block + ", ~padding_mask[micro_batch_inds])" * policy_block.endswith("("),
        clipped,
    ):
        exec(code, local)
    out["losses"] = {
        **inputs,
        "mask": mask.double(),
        **{name: local[name] for name in ("vf_loss", "vf_clipfrac", "pg_loss", "pg_clipfrac", "ratio")},
    }

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return value.tolist()

    target = Path(__file__).with_name("trl_ppo.json")
    target.write_text(json.dumps(plain(out)) + "\n")
    print(f"wrote {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
