"""What a run needs, said before anything is loaded: peak memory by part, and time per step.

A run goes through phases: it samples (a rollout), reads what it sampled (evaluation), computes gradients (backward
pass) and moves the weights (optimizer step). Its peak is that of its largest phase: what is there all the time
(weights, moments, ...) plus what the phase itself holds. Every array is counted from the model's shape; what differs
between the array libraries is in backends/*/memory.py. benchmarks/memory.py sets the plan beside measured peaks.

For MLX the peak is mx.get_peak_memory's; for PyTorch on the CPU, the process's largest resident size.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlxrlhf import parallel
from mlxrlhf.algorithms.rollout import READ_ROWS, SAMPLE_ROWS, bucket
from mlxrlhf.backends.protocol import Backend
from mlxrlhf.config import (
    SIZES,
    DPOConfig,
    EvaluateConfig,
    ModelConfig,
    PolicyConfig,
    PPOConfig,
    RewardConfig,
    RunConfig,
    TrainConfig,
    WeightsConfig,
)
from mlxrlhf.errors import UserError
from mlxrlhf.models import checkpoint, published
from mlxrlhf.models.savepoints import KEPT

GB = 2**30
#: bytes of a number
BYTES = {"float32": 4, "bfloat16": 2}
#: tokens of a prompt and of an answer, where a command does not know its data yet
PROMPT_TOKENS, ANSWER_TOKENS = 64, 160
#: share of the speed of bare matrix products that a step reaches: 0.3 to 0.8 in benchmarks/memory.json, on busy cores
EFFICIENCY = 0.5
#: rows of the product whose speed is the ceiling, and of one that compares precisions in no time
CEILING_ROWS, SMALL_ROWS = 256, 32
#: how many times slower than float32 a precision must be to be warned of: it halves the bytes, which may be worth some
SLOWER = 1.5


@dataclass(frozen=True)
class Batch:
    """Rows of `length` tokens, of which `predicted` per row are scored against the vocabulary."""

    rows: int
    length: int
    predicted: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True)
class Job:
    """What decides memory and work of one step of a command."""

    model: ModelConfig
    dtype: str
    lora_rank: int = 0
    lora_layers: int = 0  # blocks that have adapters; 0: all
    gradient_checkpointing: bool = False
    optimizer_dtype: str = "float32"
    value_head: bool = False
    copies: int = 0  # frozen trunks beside the first: a reference, the model before alignment
    reference_head: bool = False  # a frozen output layer beside the trained one
    train: Batch | None = None  # one forward and backward
    waits: bool = False  # its gradient needs every token's log-probability before it can start
    forwards: int = 1  # of those in an optimizer step
    steps: float = 1  # optimizer steps in a step of the command
    evaluate: Batch | None = None  # one forward without gradient
    evaluations: float = 0  # of those in a step of the command
    entropy: bool = False  # computed in it, over the whole vocabulary
    decode: Batch | None = None  # a rollout; `predicted` tokens of each row are sampled
    step: str = "step"  # what the command's step is called

    @classmethod
    def of(cls, config: RunConfig, model: ModelConfig, prompt: int = PROMPT_TOKENS, answer: int = ANSWER_TOKENS) -> Job:
        """The job of a command's settings; prompt and answer: tokens of the longest in its data."""
        model = dataclasses.replace(model, bits=model.bits or config.quantize)
        if isinstance(config, TrainConfig):
            return _train_job(config, model)
        if isinstance(config, PolicyConfig):
            return _policy_job(config, model, prompt)
        if isinstance(config, DPOConfig):
            return _dpo_job(config, model, prompt, answer)
        if isinstance(config, EvaluateConfig):
            return _evaluate_job(config, model, prompt)
        assert isinstance(config, RewardConfig)
        return _reward_job(config, model, prompt, answer)


def _trunk(config: WeightsConfig, model: ModelConfig) -> Job:
    """What the commands that train a language model share."""
    return Job(
        model,
        config.dtype,
        config.lora_rank,
        config.lora_layers,
        config.gradient_checkpointing,
        config.optimizer_dtype,
    )


def _train_job(config: TrainConfig, model: ModelConfig) -> Job:
    batch = Batch(config.batch_size, config.sequence_length, config.sequence_length - 1)
    forwards = config.gradient_accumulation_steps
    return dataclasses.replace(_trunk(config, model), train=batch, forwards=forwards, evaluate=batch)


def _policy_job(config: PolicyConfig, model: ModelConfig, prompt: int) -> Job:
    rows = config.batch_size * config.responses_per_prompt
    mini = min(config.mini_batch_size, rows)
    length = bucket(prompt) + bucket(config.max_tokens)
    micro = Batch(min(config.micro_batch_size, mini), length, bucket(config.max_tokens))
    return dataclasses.replace(
        _trunk(config, model),
        value_head=isinstance(config, PPOConfig),
        copies=0 if config.lora_rank else 1,
        reference_head=isinstance(config, PPOConfig) and config.kl_in_loss,
        train=micro,
        forwards=math.ceil(mini / micro.rows),
        steps=config.ppo_epochs * math.ceil(rows / mini),
        evaluate=micro,
        evaluations=2 * math.ceil(rows / micro.rows),
        entropy=True,
        decode=Batch(rows, prompt + config.max_tokens, config.max_tokens),
    )


def _dpo_job(config: DPOConfig, model: ModelConfig, prompt: int, answer: int) -> Job:
    length = bucket(prompt + answer)
    pairs = min(config.micro_batch_size, config.batch_size, max(1, config.micro_batch_tokens // (2 * length)))
    micro = Batch(2 * pairs, length, bucket(answer))
    forwards = math.ceil(config.batch_size / pairs)
    return dataclasses.replace(_trunk(config, model), train=micro, waits=True, evaluate=micro, forwards=forwards)


def _evaluate_job(config: EvaluateConfig, model: ModelConfig, prompt: int) -> Job:
    rows = min(SAMPLE_ROWS, (config.max_prompts or SAMPLE_ROWS) * config.samples)
    return Job(
        model,
        config.dtype,
        copies=1,
        evaluate=Batch(rows, bucket(prompt) + bucket(config.max_tokens), bucket(config.max_tokens)),
        evaluations=2,
        step=f"{rows} answers",
        decode=Batch(rows, prompt + config.max_tokens, config.max_tokens),
    )


def _reward_job(config: RewardConfig, model: ModelConfig, prompt: int, answer: int) -> Job:
    samples = config.samples > 0 and not config.data
    length = bucket(prompt + (max(answer, config.max_tokens) if samples else answer))
    pairs = min(config.micro_batch_size, config.unfreeze_batch_size)
    return Job(
        model,
        config.dtype,
        lora_rank=config.unfreeze_rank,
        value_head=config.unfreeze_rank > 0,
        train=Batch(2 * pairs, length, 0) if config.unfreeze_rank else None,
        forwards=math.ceil(config.unfreeze_batch_size / pairs),
        steps=READ_ROWS / config.unfreeze_batch_size,
        evaluate=Batch(READ_ROWS, length, 0),
        evaluations=2,
        step=f"{READ_ROWS} pairs",
        decode=Batch(SAMPLE_ROWS, prompt + config.max_tokens, config.max_tokens) if samples else None,
    )


@dataclass(frozen=True)
class Plan:
    """Bytes by part at the peak, and the phase it falls into."""

    parts: dict[str, float]
    phase: str

    @property
    def peak(self) -> float:
        return sum(self.parts.values())


def adapter_weights(c: ModelConfig, rank: int, blocks: int = 0) -> int:
    """Weights of LoRA adapters of a rank on every linear layer of the last `blocks` blocks; 0: of all."""
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    ends = 2 * (c.hidden_size + q) + 2 * (c.hidden_size + kv) + 3 * (c.hidden_size + c.intermediate_size)
    return min(blocks or c.num_layers, c.num_layers) * rank * ends


def small_weights(job: Job) -> int:
    """Weights that are float32 whatever the trunk is: adapters and the value head, Linear(d, d/2) - Linear(d/2, 1)."""
    width = job.model.hidden_size
    return adapter_weights(job.model, job.lora_rank, job.lora_layers) + job.value_head * (
        (width + 2) * (width // 2) + 1
    )


def trained_weights(job: Job) -> int:
    """Weights that the optimizer moves."""
    full = 0 if job.lora_rank else job.model.parameters()
    return full + small_weights(job) if job.train else 0


def trunk_bytes(job: Job, backend: Backend) -> float:
    """Bytes of the trunk's weights as they are held: packed ones have a scale and a bias in the trunk's precision for
    each group. PyTorch holds them unpacked."""
    c, size = job.model, BYTES[job.dtype]
    if not c.bits or backend.NAME != "mlx":
        return size * c.parameters()
    norms = (2 * c.num_layers + 1) * c.hidden_size
    return (c.parameters() - norms) * (c.bits / 8 + 2 * size / c.group_size) + size * norms


def _blocks_behind(job: Job) -> int:
    """Blocks that a backward pass goes through: none before the first that has adapters."""
    every = job.model.num_layers
    return min(job.lora_layers, every) if job.lora_rank and job.lora_layers else every


def predict(job: Job, backend: Backend) -> Plan:
    """Peak memory of a job on a backend."""
    c, size, m = job.model, BYTES[job.dtype], backend.memory
    full = job.train is not None and not job.lora_rank
    embedding = c.vocab_size * c.hidden_size
    small, trained = small_weights(job), trained_weights(job)
    masters = full and job.dtype == "bfloat16"
    always = {
        "process": m.held(),
        "weights": trunk_bytes(job, backend),
        "adapters and heads": 4 * small,
        "reference": job.copies * trunk_bytes(job, backend) + job.reference_head * size * embedding,
        "masters": masters * m.MASTER * c.parameters(),
        "optimizer moments": 2 * trained * BYTES[job.optimizer_dtype],
    }
    phases: dict[str, dict[str, float]] = {}

    def logits(b: Batch, softmax: bool, waits: bool = False) -> int:
        return m.logits(size, softmax, waits) * min(b.rows * b.predicted * c.vocab_size, m.LOGITS_CHUNK)

    def block(b: Batch) -> int:
        return b.tokens * m.block(c, b.length, size, full)

    if b := job.evaluate:
        phases["in a forward pass"] = {"activations": block(b), "logits": logits(b, job.entropy)}
    if b := job.decode:
        cached = 2 * size * c.num_layers * c.num_kv_heads * c.head_dim * b.rows * bucket(b.length, 64)
        phases["while prompts are read"] = {
            "activations": block(Batch(b.rows, b.length - b.predicted, 0)),
            "key-value cache": cached,
        }
        phases["while sampling"] = {"logits": logits(Batch(b.rows, 1, 1), True), "key-value cache": cached}
    if b := job.train:
        kept = b.tokens * size * c.hidden_size if job.gradient_checkpointing else block(b)
        at_work = m.RECOMPUTED if job.gradient_checkpointing else m.WORKING
        gradient = (m.GRADIENT if size < 4 else 4) * full * c.parameters() + 4 * small
        summed = 4 * trained if job.forwards > 1 else 0
        # The output layer's gradient comes first and, where it is the embedding's too, the embedding's own part last.
        tied = size * full * embedding
        phases["at the start of the backward pass"] = {
            "activations": _blocks_behind(job) * kept + m.WORKING * block(b),
            "logits": logits(b, True, job.waits),
            "gradients": summed + tied,
        }
        phases["at the end of the backward pass"] = {
            "activations": kept + at_work * block(b),
            "logits": full * m.LOGITS_LEFT * size * b.rows * b.predicted * c.vocab_size,
            "gradients": m.gradients(gradient, summed, tied),
        }
        phases["in the optimizer step"] = {
            "gradients": max(summed, gradient),
            "temporaries": m.update(masters) * min(trained, m.UPDATE_CHUNK),
        }
    phase, parts = max(phases.items(), key=lambda item: sum(item[1].values()))
    return Plan({name: value for name, value in {**always, **parts}.items() if value}, phase)


def disk_bytes(config: RunConfig, model: ModelConfig) -> int:
    """Bytes that a training command writes at most beside what is there: saves, the best weights, the result.

    A save holds each trained weight and its two moments in float32. One more than is kept stands while it is written,
    and so does a new result beside the old one.
    """
    job = Job.of(config, model)
    trained = trained_weights(job) if isinstance(config, WeightsConfig) else _head_weights(job)
    save = 3 * 4 * trained
    written = BYTES[checkpoint.saved_dtype(job.model, "float32")]
    result = written * model.parameters() + 4 * small_weights(job) if isinstance(config, WeightsConfig) else 4 * trained
    best = result if isinstance(config, TrainConfig) else 0
    return KEPT * save + best + max(save, result)


def _head_weights(job: Job) -> int:
    """Weights of a reward head, and of the adapters of its base."""
    width = job.model.hidden_size
    return adapter_weights(job.model, job.lora_rank) + (width + 2) * (width // 2) + 1


# --- time ----------------------------------------------------------------------------------------------------------


def operations(job: Job) -> tuple[float, float]:
    """Multiplications and additions of one step of the command: of its forward and backward passes, and of decoding.

    A forward takes 2 for each weight and token and 4 T d for the attention of a token to T others; a backward pass as
    much for what it goes through and again for the weights that are trained; checkpointing one more forward.
    """
    c = job.model
    layers = c.parameters() - c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)

    def forward(b: Batch, tokens: int) -> float:
        attention = 4 * c.num_layers * c.num_heads * c.head_dim * b.length
        return tokens * (2 * layers + attention) + 2 * b.rows * b.predicted * c.vocab_size * c.hidden_size

    passes = decoding = 0.0
    if b := job.train:
        each = (2 if job.lora_rank else 3) + job.gradient_checkpointing
        passes += job.steps * job.forwards * each * forward(b, b.tokens)
    if b := job.evaluate:
        passes += job.evaluations * forward(b, b.tokens)
    if b := job.decode:
        passes += forward(dataclasses.replace(b, predicted=0), b.rows * (b.length - b.predicted))
        decoding += forward(b, b.rows * b.predicted)
    return passes, decoding


def seconds(job: Job, backend: Backend) -> float:
    """Time of one step of the command: its operations at the speed of matrix products of as many rows, measured now."""
    passes, decoding = operations(job)
    time = passes / backend.memory.matmul_rate(job.dtype, CEILING_ROWS)
    if job.decode:
        time += decoding / backend.memory.matmul_rate(job.dtype, job.decode.rows)
    return time / EFFICIENCY


def slow_precision(dtype: str, backend: Backend) -> str:
    """A warning where products in `dtype` are slower here than in float32, as on a CPU without instructions for
    bfloat16; otherwise "". Measured now."""
    if dtype == "float32":
        return ""
    full, low = (backend.memory.matmul_rate(name, SMALL_ROWS, seconds=0.05) for name in ("float32", dtype))
    if full < SLOWER * low:
        return ""
    return (
        f"matrix products in {dtype} take {full / low:.0f} times as long as in float32 on this machine; "
        f"leave --dtype {dtype} out unless memory is short"
    )


# --- the command and the check -------------------------------------------------------------------------------------


def shape(config: RunConfig) -> ModelConfig:
    """The shape of the model that a command would load."""
    if config.checkpoint:
        return checkpoint.read_config(Path(config.checkpoint))
    if config.model:
        return checkpoint.read_config(published.fetch(config.model, files=["config.json"]))
    return SIZES[config.size]


def describe(config: RunConfig, backend: Backend, prompt: int, answer: int) -> Iterator[str]:
    """The lines that `mlxrlhf plan` prints."""
    model = shape(config)
    job = Job.of(config, model, prompt, answer)
    plan, room = predict(job, backend), backend.memory.limit()
    refuse_training_packed(config, job.model)
    packed = f"{job.model.bits} bits and " if job.model.bits else ""
    yield f"{model.parameters():,} weights in {packed}{job.dtype}, on {backend.NAME}"
    for part, size in plan.parts.items():
        yield f"  {part:20} {size / GB:8.2f} GB"
    yield f"{'peak memory':22} {plan.peak / GB:8.2f} GB   {plan.phase}"
    yield f"{'this machine has':22} {room / GB:8.2f} GB"
    if plan.peak > room:
        yield f"{'it fits with':25} {remedy(config, model, backend, prompt, answer) or 'a smaller model only'}"
    work, time = sum(operations(job)), seconds(job, backend)
    scale, unit = (3600, "h") if time > 7200 else (60, "min") if time > 120 else (1, "s")
    yield (
        f"{'time per ' + job.step:22} {time / scale:8.2f} {unit:4} {work / 1e12:,.2f} TFLOP, at {EFFICIENCY:.0%} of "
        "the speed of bare matrix products here"
    )
    if warning := slow_precision(config.dtype, backend):
        yield warning


def refuse_training_packed(config: RunConfig, model: ModelConfig) -> None:
    """Raises UserError where every weight of a model would be trained whose weights are packed, and so frozen."""
    bits = model.bits or config.quantize
    if bits and isinstance(config, WeightsConfig) and not config.lora_rank:
        raise UserError(f"weights in {bits} bits cannot be trained themselves; train adapters on them: --lora-rank 16")


def check(
    config: RunConfig, model: ModelConfig, backend: Backend, prompt: int = PROMPT_TOKENS, answer: int = ANSWER_TOKENS
) -> None:
    """Raises UserError, naming settings that would fit, when a command asks for more memory than the machine has.

    Warns on stderr of a precision that is slow here.
    """
    refuse_training_packed(config, model)
    plan, room = predict(Job.of(config, model, prompt, answer), backend), backend.memory.limit()
    if plan.peak > room and not config.allow_swap:
        fitting = remedy(config, model, backend, prompt, answer)
        advice = f"it fits with {fitting}" if fitting else "choose a smaller --size or --model"
        raise UserError(
            f"this run needs about {plan.peak / GB:.1f} GB and the machine has {room / GB:.1f} GB; "
            f"{advice}, or give --allow-swap to start anyway"
        )
    if parallel.first() and (warning := slow_precision(config.dtype, backend)):
        print(warning, file=sys.stderr)


def remedy(config: RunConfig, model: ModelConfig, backend: Backend, prompt: int, answer: int) -> str:
    """The fewest flags with which a command fits into this machine, or ""."""
    ways = _ways(config, backend, model.bits)
    for count in range(1, len(ways) + 1):
        for chosen in itertools.combinations(ways, count):
            for changes in itertools.product(*chosen):
                merged = {name: value for change in changes for name, value in change.items()}
                job = Job.of(dataclasses.replace(config, **merged), model, prompt, answer)
                if predict(job, backend).peak <= backend.memory.limit():
                    return " ".join(
                        "--" + name.replace("_", "-") + ("" if value is True else f" {value}")
                        for name, value in merged.items()
                    )
    return ""


def _ways(config: RunConfig, backend: Backend, bits: int = 0) -> list[list[dict]]:
    """Changes that save memory, from those that cost nothing to those that change what is trained: one list for each
    flag, the mildest change first."""
    ways: list[list[dict]] = []
    if isinstance(config, TrainConfig):  # smaller forwards, as many rows to a step
        rows = config.batch_size * config.gradient_accumulation_steps
        halves = [config.batch_size >> i for i in range(1, config.batch_size.bit_length())]
        ways.append([{"batch_size": n, "gradient_accumulation_steps": math.ceil(rows / n)} for n in halves])
    elif isinstance(config, (PolicyConfig, DPOConfig)) or (isinstance(config, RewardConfig) and config.unfreeze_rank):
        ways.append(
            [{"micro_batch_size": config.micro_batch_size >> i} for i in range(1, config.micro_batch_size.bit_length())]
        )
    if isinstance(config, WeightsConfig) and not config.gradient_checkpointing:
        ways.append([{"gradient_checkpointing": True}])
    if config.dtype == "float32":
        ways.append([{"dtype": "bfloat16"}])
    if isinstance(config, WeightsConfig) and not config.lora_rank:
        if backend.NAME == "mlx" and config.optimizer_dtype == "float32":
            ways.append([{"optimizer_dtype": "bfloat16"}])
        # Who brings a model has most to gain from adapters, so there they are named first.
        ways.insert(0 if config.model else len(ways), [{"lora_rank": 16}])
    elif config.model and backend.NAME == "mlx" and not (config.quantize or bits):
        ways.append([{"quantize": 4}])
    return [way for way in ways if way]
