"""Model sizes and one frozen dataclass per stage: the only home of a default.

The command line is generated from these dataclasses, so a field's `help` text is its documentation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mlxrlhf.errors import UserError

STAGES = ("language", "code", "tools", "reward", "rlhf")


def option(default: Any, help: str, *, minimum: float | None = None, maximum: float | None = None,
           choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with the text, the bounds and the choices that the command line shows."""
    return field(default=default, metadata={"help": help, "minimum": minimum, "maximum": maximum, "choices": choices})


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama-family decoder (Touvron et al. 2023): RMSNorm, RoPE, SwiGLU, grouped-query attention."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    head_dim: int = 64
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    rope_scaling: dict | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    family: str = "llama"  # any other is loaded by mlx-lm

    def parameters(self) -> int:
        """Number of weights."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        block = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_layers * block + self.hidden_size


#: vocabulary, width, layers, heads, key-value heads, feed-forward width; the comment is the parameter count
SIZES: dict[str, ModelConfig] = {
    "nano": ModelConfig(4_096, 192, 4, 3, 1, 512),            # 2.4M
    "micro": ModelConfig(8_192, 320, 8, 5, 1, 1_024),         # 12M
    "tiny": ModelConfig(32_000, 768, 12, 12, 4, 3_392),       # 137M
    "medium": ModelConfig(32_000, 1_024, 24, 16, 4, 3_712),   # 369M
    "large": ModelConfig(32_000, 1_600, 32, 25, 5, 5_504),    # 1.1B
    "xlarge": ModelConfig(32_000, 1_792, 36, 28, 7, 5_952),   # 1.5B
}


@dataclass(frozen=True)
class BackendConfig:
    """What every command that runs a model takes."""

    backend: str = option("auto", "array library; auto is mlx where it has a GPU, otherwise torch where it is "
                                  "installed, otherwise mlx", choices=("auto", "mlx", "torch"))
    device: str = option("", "gpu or cpu for mlx; cuda, mps or cpu for torch (default: the best there is)")
    dtype: str = option("float32", "precision of the trunk (trained weights keep float32 masters)",
                        choices=("float32", "bfloat16"))


@dataclass(frozen=True)
class RunConfig(BackendConfig):
    """What every training command takes."""

    size: str = option("nano", "model size", choices=tuple(SIZES))
    model: str = option("", "published Llama-family checkpoint instead of a size of ours: a folder, smollm2, or a hub "
                            "name; its folders are named after it")
    checkpoint: str = option("", "folder to start from (default: the stage before, under weights/SIZE/)")
    out: str = option("", "folder to write (default: weights/SIZE/STAGE)")
    data_dir: str = option("data", "folder of prepared data; SIZE is appended")
    seed: int = option(0, "seed of every random choice", minimum=0)
    resume: bool = option(False, "continue from the last save of the same command")
    save_every: int = option(100, "steps between saves", minimum=1)


@dataclass(frozen=True)
class PrepareConfig:
    """Defaults of `mlxrlhf prepare`."""

    size: str = option("nano", "model size: it decides the vocabulary", choices=tuple(SIZES))
    model: str = option("", "published model whose tokenizer to take instead: a folder, smollm2, or a hub name")
    data_dir: str = option("data", "folder to write; SIZE is appended")
    language_sources: str = option("python-docs", "comma-separated: python-docs, registry, hub:NAME, a file or folder")
    code_sources: str = option("stdlib", "comma-separated: stdlib, package:NAME, hub:NAME, a file or folder")
    max_characters: int = option(20_000_000, "characters to take from each source", minimum=1_000)
    dialogues: int = option(2_000, "tool dialogues to make", minimum=10)
    bfcl: str = option("", "folder of bfcl-eval's data, to add its tool calls")
    pairs: int = option(2_000, "preference pairs to make", minimum=40)
    seed: int = option(0, "seed of every random choice", minimum=0)
    unsafe_exec: bool = option(False, "run code even where no operating-system jail is available")


@dataclass(frozen=True)
class ChatConfig(BackendConfig):
    """Defaults of `mlxrlhf chat`."""

    size: str = option("nano", "model size", choices=tuple(SIZES))
    model: str = option("", "checkpoint folder, smollm2 or a hub name (default: weights/SIZE/rlhf, or the last stage)")
    prompt: str = option("", "answer this one prompt and leave")
    system: str = option("", "system message")
    max_tokens: int = option(256, "longest answer, in tokens", minimum=1)
    temp: float = option(0.2, "sampling temperature; 0 is greedy; 0.2 suits code (Chen et al. 2021)", minimum=0)
    seed: int = option(0, "seed of the sampling", minimum=0)


@dataclass(frozen=True)
class FuseConfig(BackendConfig):
    """Defaults of `mlxrlhf fuse`."""

    model: str = option("", "what the adapters were trained on: a folder, smollm2, or a hub name")
    adapter: str = option("", "folder of adapters.safetensors and adapter_config.json")
    out: str = option("", "folder to write")


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Supervised language-model training (pretrain and finetune)."""

    num_epochs: int = option(1, "passes over the steps below", minimum=1)
    steps_per_epoch: int = option(1_000, "optimizer steps per epoch", minimum=1)
    batch_size: int = option(16, "rows per forward", minimum=1)
    sequence_length: int = option(256, "tokens per row", minimum=8)
    gradient_accumulation_steps: int = option(1, "forwards per optimizer step", minimum=1)
    learning_rate: float = option(1e-3, "peak learning rate of AdamW", minimum=0)
    warmup_steps: int = option(50, "steps of linear warm-up before the cosine decay", minimum=0)
    weight_decay: float = option(0.1, "decoupled weight decay on matrices", minimum=0)
    max_grad_norm: float = option(1.0, "global gradient norm to clip at", minimum=0)
    eval_every: int = option(100, "steps between validations", minimum=1)
    eval_batches: int = option(8, "validation batches", minimum=1)
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass: slower, smaller")
    optimizer_dtype: str = option("float32", "precision of AdamW's two moments (bfloat16: mlx only)",
                                  choices=("float32", "bfloat16"))
    lora_rank: int = option(0, "rank of adapters to train instead of the weights; 0 trains every weight", minimum=0)
    lora_scale: float = option(2.0, "factor on the adapters' output", minimum=0)


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Defaults of `mlxrlhf pretrain`."""


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """Defaults of `mlxrlhf finetune`."""

    stage: str = option("code", "what to learn", choices=("code", "tools"))
    learning_rate: float = option(6e-4, "peak learning rate of AdamW", minimum=0)
    data: str = option("", "JSONL of {prompt, completion}, {messages} or {text} instead of the prepared data")
    dialogue_share: float = option(0.7, "share of rows that are requests with their solution; the rest is code text "
                                        "(code stage) or tool dialogues (tools stage)", minimum=0, maximum=1)


@dataclass(frozen=True)
class RewardConfig(RunConfig):
    """Defaults of `mlxrlhf reward`: a two-layer head on a frozen base."""

    data: str = option("", "JSONL of {prompt, chosen, rejected} instead of the prepared pairs")
    loss: str = option("margin", "margin ranking or Bradley-Terry", choices=("margin", "bradley-terry"))
    margin: float = option(1.0, "margin m of max(0, m - (r_chosen - r_rejected))", minimum=0)
    samples: int = option(3, "answers of the base itself to each request, run and paired with a better one; 0 takes "
                             "the prepared pairs alone", minimum=0)
    max_tokens: int = option(160, "longest sampled answer, in tokens", minimum=1)
    temp: float = option(1.0, "sampling temperature of those answers: that of PPO's rollouts", minimum=1e-3)
    unsafe_exec: bool = option(False, "run sampled answers even where no operating-system jail is available")
    num_epochs: int = option(40, "passes over the pairs (the base runs once: features are cached)", minimum=1)
    batch_size: int = option(64, "pairs per optimizer step", minimum=1)
    learning_rate: float = option(1e-3, "learning rate of AdamW", minimum=0)
    weight_decay: float = option(0.1, "decoupled weight decay", minimum=0)
    max_grad_norm: float = option(1.0, "global gradient norm to clip at", minimum=0)


@dataclass(frozen=True)
class PPOConfig(RunConfig):
    """Defaults of `mlxrlhf ppo` (Schulman et al. 2017; Ziegler et al. 2019)."""

    reward_model: str = option("", "reward head to optimise (default: weights/SIZE/reward)")
    num_epochs: int = option(1, "passes over the steps below", minimum=1)
    steps_per_epoch: int = option(40, "PPO updates (rollout and optimisation) per epoch", minimum=1)
    batch_size: int = option(32, "prompts per rollout", minimum=1)
    mini_batch_size: int = option(16, "responses per optimizer step", minimum=1)
    micro_batch_size: int = option(8, "responses per forward, of similar length: it changes memory and speed, not the "
                                      "result", minimum=1)
    ppo_epochs: int = option(4, "passes over each rollout", minimum=1)
    max_tokens: int = option(160, "longest response, in tokens", minimum=1)
    temp: float = option(1.0, "sampling temperature of rollouts", minimum=1e-3)
    learning_rate: float = option(0.0, "learning rate; 0 takes 1e-6 for full fine-tuning, 3e-4 with LoRA", minimum=0)
    value_learning_rate: float = option(1e-3, "learning rate of the value head", minimum=0)
    warmup_steps: int = option(2, "updates of linear warm-up", minimum=0)
    max_grad_norm: float = option(1.0, "global gradient norm to clip at", minimum=0)
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass: slower, smaller")
    optimizer_dtype: str = option("float32", "precision of AdamW's two moments (bfloat16: mlx only)",
                                  choices=("float32", "bfloat16"))
    lora_rank: int = option(16, "rank of the adapters; 0 trains every weight", minimum=0)
    lora_scale: float = option(2.0, "factor on the adapters' output", minimum=0)
    clip: float = option(0.2, "policy ratio clip range", minimum=0)
    value_clip: float = option(0.2, "value clip range", minimum=0)
    vf_coef: float = option(0.1, "weight of the value loss", minimum=0)
    entropy_coef: float = option(0.0, "weight of the entropy bonus", minimum=0)
    gamma: float = option(0.99, "discount; published RLHF work uses 1.0, because a response is one decision whose "
                                "score comes at its end and should not shrink with length", minimum=0)
    lam: float = option(0.95, "lambda of generalised advantage estimation", minimum=0)
    kl_coef: float = option(0.05, "weight beta of the KL penalty, per nat", minimum=0)
    kl_target: float = option(0.0, "nats per response the adaptive controller aims at; 0 keeps beta fixed", minimum=0)
    kl_in_loss: bool = option(False, "put the full KL over the vocabulary in the loss instead of the reward")
    kl_limit: float = option(60.0, "nats per response at which the run is stopped as a runaway", minimum=0)
    whiten_rewards: bool = option(False, "divide rewards by their deviation (the mean is kept)")
    missing_end_penalty: float = option(1.0, "subtracted from the score of a response without an end token", minimum=0)
    save_every: int = option(10, "updates between saves", minimum=1)


@dataclass(frozen=True)
class EvaluateConfig(RunConfig):
    """Defaults of `mlxrlhf evaluate`: the reference against the aligned model on held-out prompts."""

    reward_model: str = option("", "reward head that judges (default: weights/SIZE/reward)")
    before: str = option("", "checkpoint to compare with (default: weights/SIZE/tools)")
    samples: int = option(1, "sampled answers per held-out prompt", minimum=1)
    prompts: int = option(0, "held-out prompts to use; 0 takes all", minimum=0)
    max_tokens: int = option(160, "longest answer, in tokens", minimum=1)
    temp: float = option(0.2, "sampling temperature, as in chat", minimum=0)
    unsafe_exec: bool = option(False, "run answers even where no operating-system jail is available")


#: What `mlxrlhf demo` changes: every stage at size nano within eight minutes on two CPU cores.
DEMO: dict[str, dict[str, Any]] = {
    "prepare": dict(max_characters=1_000_000),
    "pretrain": dict(steps_per_epoch=30, batch_size=16, sequence_length=128, warmup_steps=5, learning_rate=3e-3,
                     eval_every=30, eval_batches=2),
    # Small batches: with so few tokens to spend, more steps teach more than smoother ones.
    "code": dict(steps_per_epoch=640, batch_size=6, sequence_length=160, warmup_steps=20, learning_rate=3e-3,
                 dialogue_share=0.93, eval_every=320, eval_batches=4),
    "tools": dict(steps_per_epoch=60, batch_size=8, sequence_length=224, warmup_steps=5, learning_rate=6e-4,
                  dialogue_share=0.7, eval_every=60, eval_batches=4),
    "reward": dict(temp=0.7),
    # One decision early in an answer (type hints or none) earns a score 40 tokens later: nothing may discount it.
    # Small adapters and a firm penalty: with larger ones the score rose as far, but fewer answers passed their tests.
    "ppo": dict(steps_per_epoch=24, ppo_epochs=2, max_tokens=128, temp=0.7, gamma=1.0, lam=1.0, kl_coef=0.2,
                lora_rank=4, learning_rate=4e-4),
    "evaluate": {},
}


def validate(config: Any) -> None:
    """Raise UserError for the first field outside its bounds, named by its flag."""
    for f in fields(config):
        value, flag = getattr(config, f.name), "--" + f.name.replace("_", "-")
        if isinstance(value, float) and value != value:
            raise UserError(f"{flag} is not a number")
        minimum = f.metadata.get("minimum")
        if minimum is not None and value < minimum:
            raise UserError(f"{flag} is {value}; it must be at least {minimum:g}")
        maximum = f.metadata.get("maximum")
        if maximum is not None and value > maximum:
            raise UserError(f"{flag} is {value}; it must be at most {maximum:g}")
        choices = f.metadata.get("choices")
        if choices and value not in choices:
            raise UserError(f"{flag} is {value!r}; choose one of {', '.join(choices)}")


def to_json(config: Any) -> dict:
    """The dataclass as plain JSON values."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
