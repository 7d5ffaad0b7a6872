"""What a run needs, said before anything is loaded: peak memory by part, and operations per step.

Peak memory is the largest of a run's phases (rollout, evaluation, backward pass, optimizer step), each the sum of what
it holds: weights, masters, moments, gradients, the cache, and activations. Activations are counted in elements per
token: so many arrays of each width that a block keeps for its backward pass, and so many that are alive once, while one
block is worked on. `benchmarks/memory_fit.py` measures those counts on small models, `benchmarks/memory.py` checks the
prediction at real sizes. For MLX the prediction is of `mx.get_peak_memory`; for PyTorch on the CPU, of the process's
resident high-water mark less what Python and the library take before a model is made.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlxrlhf import checkpoint, published
from mlxrlhf.algorithms.rollout import bucket
from mlxrlhf.config import SIZES, DPOConfig, ModelConfig, PolicyConfig, RewardConfig, RunConfig, TrainConfig
from mlxrlhf.errors import UserError

GB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2}
#: logits held at once, in elements, as in backends/*/model.py
LOGITS_CHUNK = 2**25
#: prompts sampled in one batch and sequences read in one batch by the reward stage, as in stages/reward.py
REWARD_SAMPLED, REWARD_READ = 64, 32
#: tokens of a prompt and of an answer where a command does not know them yet
PROMPT_TOKENS, ANSWER_TOKENS = 64, 160


@dataclass(frozen=True)
class Counts:
    """Elements per token: per layer and once, in units of d, feed-forward, query and key-value widths, heads * length.

    vocab: per predicted token, in units of the vocabulary.
    """

    layer: tuple[float, float, float, float, float]
    once: tuple[float, float, float, float]
    vocab: float

    def elements(self, c: ModelConfig, rows: int, length: int, predicted: int) -> float:
        """Of one batch (rows, length) that predicts `predicted` tokens."""
        q, kv, scores = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_heads * length
        layer = sum(n * w for n, w in zip(self.layer, (c.hidden_size, c.intermediate_size, q, kv, scores)))
        return (rows * length * c.num_layers * layer + self.working(c, rows, length)
                + self.vocab * min(predicted * c.vocab_size, LOGITS_CHUNK))

    def working(self, c: ModelConfig, rows: int, length: int) -> float:
        """What is alive once."""
        widths = (c.hidden_size, c.intermediate_size, c.num_heads * c.head_dim, c.num_heads * length)
        return rows * length * sum(n * w for n, w in zip(self.once, widths))


#: (backend, mode, dtype) to counts, from benchmarks/memory_fit.py
COUNTS: dict[tuple[str, str, str], Counts] = {
    ("mlx", "full", "float32"): Counts((5.8, 4.9, 2.3, 2.9, 0.9), (15.6, 2.9, 0.0, 3.3), 2.7),
    ("mlx", "checkpointed", "float32"): Counts((0.43, 0.19, 0.31, 1.46, 0.1), (25.06, 13.22, 8.94, 2.38), 1.14),
    ("mlx", "lora", "float32"): Counts((3.74, 4.65, 1.99, 2.14, 1.3), (10.98, 6.03, 0.52, 0.0), 2.8),
    ("mlx", "full", "bfloat16"): Counts((7.7, 4.9, 2.0, 2.8, 1.4), (26.0, 4.1, 0.0, 0.0), 6.7),
    ("mlx", "lora", "bfloat16"): Counts((7.7, 4.9, 2.0, 2.8, 1.4), (26.0, 4.1, 0.0, 0.0), 6.7),
    ("mlx", "checkpointed", "bfloat16"): Counts((7.7, 4.9, 2.0, 2.8, 1.4), (26.0, 4.1, 0.0, 0.0), 6.7),
    ("mlx", "forward", "float32"): Counts((0, 0, 0, 0, 0), (10, 10, 5, 2), 3),
    ("mlx", "forward", "bfloat16"): Counts((0, 0, 0, 0, 0), (10, 10, 5, 2), 3),
    **{("torch", m, d): Counts((5, 5, 4, 3, 1) if m in ("full", "lora") else (1, 0, 0, 0, 0), (10, 10, 5, 2), 3) for m in ("full", "lora", "checkpointed", "forward") for d in ("float32", "bfloat16")},
}
#: float32 elements alive in the optimizer step, per element of its largest portion
UPDATE = {("mlx", "float32"): 0.9, ("mlx", "bfloat16"): 1.7, ("torch", "float32"): 0.0, ("torch", "bfloat16"): 0.0}


@dataclass(frozen=True)
class Batch:
    """Rows of `length` tokens of which `predicted` per row are scored."""

    rows: int
    length: int
    predicted: int


@dataclass(frozen=True)
class Job:
    """What decides the memory and the work of one step of a command."""

    model: ModelConfig
    dtype: str
    lora_rank: int = 0
    gradient_checkpointing: bool = False
    optimizer_dtype: str = "float32"
    value_head: bool = False
    reference: bool = False                # a second trunk beside the trained one
    train: Batch | None = None             # one forward and backward
    forwards: int = 1                      # of them for one optimizer step
    steps: float = 1                       # optimizer steps in a step of the command
    evaluate: Batch | None = None          # one forward without gradient
    evaluations: float = 0                 # of them in a step of the command
    decode: Batch | None = None            # a rollout: rows, prompt plus response, response

    @classmethod
    def of(cls, config: RunConfig, model: ModelConfig, prompt: int = PROMPT_TOKENS,
           answer: int = ANSWER_TOKENS) -> Job:
        """The job of a command's settings; prompt and answer are the longest, in tokens."""
        same = {name: getattr(config, name) for name in ("dtype", "lora_rank", "gradient_checkpointing",
                                                         "optimizer_dtype") if hasattr(config, name)}
        if isinstance(config, TrainConfig):
            batch = Batch(config.batch_size, config.sequence_length, config.sequence_length - 1)
            return cls(model, **same, train=batch, forwards=config.gradient_accumulation_steps, evaluate=batch)
        if isinstance(config, PolicyConfig):
            answer, total = config.max_tokens, config.batch_size * config.responses_per_prompt
            length, critic = bucket(prompt) + bucket(answer), not hasattr(config, "loss_type")
            micro = Batch(min(config.micro_batch_size, config.mini_batch_size, total), length, bucket(answer))
            steps = -(-total // config.mini_batch_size)
            return cls(model, **same, value_head=critic, reference=not config.lora_rank, train=micro,
                       forwards=-(-min(config.mini_batch_size, total) // micro.rows), steps=steps * config.ppo_epochs,
                       evaluate=micro, evaluations=2 * total / micro.rows, decode=Batch(total, prompt + answer, answer))
        if isinstance(config, DPOConfig):
            length = bucket(prompt) + bucket(answer)
            micro = Batch(2 * min(config.micro_batch_size, config.batch_size), length, bucket(answer))
            return cls(model, **same, train=micro, evaluate=micro,
                       forwards=-(-config.batch_size // config.micro_batch_size))
        assert isinstance(config, RewardConfig)
        answer = max(answer, config.max_tokens)
        own = config.samples and not config.data
        pairs = Batch(2 * min(config.micro_batch_size, config.batch_size), bucket(prompt + answer), 0)
        return cls(model, **same, lora_rank=config.unfreeze_rank, value_head=bool(config.unfreeze_rank),
                   train=pairs if config.unfreeze_rank else None,
                   forwards=-(-config.batch_size // config.micro_batch_size),
                   evaluate=Batch(REWARD_READ, bucket(prompt + answer), 0),
                   evaluations=2 * config.batch_size / REWARD_READ,
                   decode=Batch(REWARD_SAMPLED, prompt + config.max_tokens, config.max_tokens) if own else None)


@dataclass(frozen=True)
class Plan:
    """Bytes by part at the peak, the phase it falls into, and the floating-point operations of a step."""

    parts: dict[str, float]
    phase: str
    operations: float

    @property
    def peak(self) -> float:
        return sum(self.parts.values())


def adapter_size(c: ModelConfig, rank: int) -> int:
    """Weights of LoRA adapters of a rank on every linear layer of every block."""
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    ends = 2 * (c.hidden_size + q) + 2 * (c.hidden_size + kv) + 3 * (c.hidden_size + c.intermediate_size)
    return c.num_layers * rank * ends


def predict(job: Job, backend: str, update_chunk: int = 2**22) -> Plan:
    """Peak memory and work of a job on `mlx` or `torch`."""
    c, size, moment = job.model, _BYTES[job.dtype], _BYTES[job.optimizer_dtype]
    weights = c.parameters()
    head = (c.hidden_size + 2) * (c.hidden_size // 2) + 1 if job.value_head else 0
    adapters = adapter_size(c, job.lora_rank) if job.lora_rank else 0
    full = job.train is not None and not job.lora_rank
    trained = (weights if full else adapters) + head
    gradient = weights * size + head * 4 if full else 4 * trained
    base = {"weights": weights * size, "adapters and heads": 4 * (adapters + head)}
    if job.reference:
        base["reference"] = weights * size
    if job.train:
        if full and job.dtype == "bfloat16":
            base["masters"] = weights * (2 if backend == "mlx" else 4)
        base["optimizer moments"] = 2 * trained * moment
        if full and backend == "torch":
            gradient = 4 * trained  # cast when they are made
    mode = "lora" if job.lora_rank else "full"
    embedding = c.vocab_size * c.hidden_size
    phases: dict[str, dict[str, float]] = {}
    if job.evaluate:
        counts = COUNTS[backend, "forward", job.dtype]
        b = job.evaluate
        phases["evaluation"] = {"activations": size * counts.elements(c, b.rows, b.length, b.rows * b.predicted)}
    if job.decode:
        counts, b = COUNTS[backend, "forward", job.dtype], job.decode
        kv = 2 * c.num_layers * c.num_kv_heads * c.head_dim * b.rows * bucket(b.length, 64)
        prefill = counts.elements(c, b.rows, b.length - b.predicted, 0)
        step = counts.elements(c, b.rows, 1, b.rows)
        phases["rollout"] = {"key-value cache": size * kv, "activations": size * max(prefill, step)}
    if job.train:
        counts, b = COUNTS[backend, "checkpointed" if job.gradient_checkpointing else mode, job.dtype], job.train
        kept = size * counts.elements(c, b.rows, b.length, b.rows * b.predicted)
        working = size * counts.working(c, b.rows, b.length)
        summed = 4 * trained if job.forwards > 1 else 0
        held = embedding * size if full else 0  # the output layer's gradient comes first
        start, end = {"gradients": summed + held, "activations": kept}, {"gradients": summed + gradient + held,
                                                                        "activations": working}
        phases["backward pass"] = max(start, end, key=lambda parts: sum(parts.values()))
        largest = max(embedding if full else 0, 1)
        portion = min(trained, update_chunk + largest)
        phases["optimizer step"] = {"gradients": max(summed, gradient),
                                    "temporaries": 4 * UPDATE[backend, job.dtype] * portion}
    phase, parts = max(phases.items(), key=lambda item: sum(item[1].values()))
    return Plan({k: v for k, v in {**base, **parts}.items() if v}, phase, operations(job))


def operations(job: Job) -> float:
    """Multiplications and additions of one step of the command: 2 per weight and token forward, twice that backward.

    A frozen trunk has no gradient of its weights; checkpointing adds a forward.
    """
    c = job.model
    layers = c.parameters() - c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)

    def forward(b: Batch, positions: int | None = None) -> float:
        tokens = b.rows * (b.length if positions is None else positions)
        attention = 4 * c.num_layers * c.num_heads * c.head_dim * b.length / (1 if positions is None else 2)
        return tokens * (2 * layers + attention) + 2 * b.rows * b.predicted * c.vocab_size * c.hidden_size

    total = 0.0
    if job.train:
        passes = (2 if job.lora_rank else 3) + job.gradient_checkpointing
        total += job.steps * job.forwards * passes * forward(job.train)
    if job.evaluate:
        total += job.evaluations * forward(job.evaluate)
    if job.decode:
        total += forward(job.decode, job.decode.length)
    return total


def describe(config: RunConfig, backend, prompt: int, answer: int) -> Iterator[str]:
    """What `mlxrlhf plan` prints: memory by part, whether it fits, and the time of a step from a half-second probe."""
    model, name = shape(config), backend.__name__.rpartition(".")[2]
    job = Job.of(config, model, prompt, answer)
    planned, room = predict(job, name), backend.memory_limit()
    for part, size in planned.parts.items():
        yield f"{part:22} {size / GB:8.2f} GB"
    yield f"{'peak':22} {planned.peak / GB:8.2f} GB   in the {planned.phase}, on {name}"
    yield f"{'there is':22} {room / GB:8.2f} GB"
    if planned.peak > room:
        yield f"{'it fits with':22} {remedy(config, model, name, room, prompt, answer) or 'a smaller model only'}"
    if not job.train:
        yield f"{'time per step':22}  unknown: the base runs once, the head's own steps take milliseconds"
        return
    rate = backend.matmul_rate(config.dtype)
    work = f"{planned.operations / 1e12:.2f} TFLOP at the {rate / 1e9:,.0f} GFLOP/s of {config.dtype} products here"
    yield f"{'time per step':22} {planned.operations / rate:8.1f} s    at least: {work}"


def shape(config: RunConfig) -> ModelConfig:
    """The shape of the model that a command would load."""
    if config.checkpoint or config.model:
        return checkpoint.read_config(Path(config.checkpoint) if config.checkpoint else published.fetch(config.model))
    return SIZES[config.size]


# --- does it fit ---------------------------------------------------------------------------------------------------

def check(config: RunConfig, model: ModelConfig, backend, prompt: int = PROMPT_TOKENS,
          answer: int = ANSWER_TOKENS) -> Plan:
    """The plan of a command. Raises UserError, naming settings that would fit, when the machine has too little memory.

    backend: the module that backends.load gave.
    """
    name = backend.__name__.rpartition(".")[2]
    planned, room = predict(Job.of(config, model, prompt, answer), name), backend.memory_limit()
    if planned.peak > room and not config.allow_swap:
        found = remedy(config, model, name, room, prompt, answer)
        advice = f"it fits with {found}" if found else "choose a smaller --size or --model"
        raise UserError(f"this run needs about {planned.peak / GB:.1f} GB and there are {room / GB:.1f} GB; {advice} "
                        "(--allow-swap starts it anyway)")
    return planned


def remedy(config: RunConfig, model: ModelConfig, backend: str, room: float, prompt: int, answer: int) -> str:
    """The fewest flags with which the command fits into `room` bytes, or ""."""
    names = {f.name for f in dataclasses.fields(config)}
    ways: list[list[dict]] = []
    micro = "micro_batch_size" if "micro_batch_size" in names else "batch_size"
    smaller, rows = [], getattr(config, micro)
    while rows > 1:
        rows //= 2
        change = {micro: rows}
        if "gradient_accumulation_steps" in names:  # the same rows in a step
            change["gradient_accumulation_steps"] = config.batch_size * config.gradient_accumulation_steps // rows
        smaller.append(change)
    if not isinstance(config, RewardConfig) or config.unfreeze_rank:
        ways.append(smaller)
    if "gradient_checkpointing" in names and not config.gradient_checkpointing:
        ways.append([{"gradient_checkpointing": True}])
    if config.dtype == "float32":
        ways.append([{"dtype": "bfloat16"}])
    if "lora_rank" in names and not config.lora_rank:
        if backend == "mlx" and config.optimizer_dtype == "float32":
            ways.append([{"optimizer_dtype": "bfloat16"}])
        ways.append([{"lora_rank": 16}])
    for count in range(1, len(ways) + 1):
        for chosen in itertools.combinations(ways, count):
            for changes in itertools.product(*chosen):
                merged = {k: v for change in changes for k, v in change.items()}
                settings = dataclasses.replace(config, **merged)
                if predict(Job.of(settings, model, prompt, answer), backend).peak <= room:
                    return " ".join(f"--{k.replace('_', '-')}" + ("" if v is True else f" {v}")
                                    for k, v in merged.items())
    return ""
