"""Model sizes and one frozen dataclass per stage: the only home of a default.

The command line is generated from these dataclasses, so a field's `help` text is its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from mlxrlhf.settings import LARGEST_INTEGER

STAGES = ("language", "code", "tools", "reward", "rlhf")


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] = (),
) -> Any:
    """A dataclass field with the text, the bounds and the choices that the command line shows.

    minimum and maximum are allowed values; above is the largest value that is not.
    """
    bounds = {"minimum": minimum, "above": above, "maximum": maximum}
    return field(default=default, metadata={"help": help, **bounds, "choices": choices})


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
    bits: int = 0  # of the weights, packed as MLX packs them and frozen; 0: they are not
    group_size: int = 64  # of packed weights, that share a scale and a bias

    def parameters(self) -> int:
        """Number of weights."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        block = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_layers * block + self.hidden_size


#: vocabulary, width, layers, heads, key-value heads, feed-forward width; the comment is the parameter count
SIZES: dict[str, ModelConfig] = {
    "nano": ModelConfig(4_096, 192, 4, 3, 1, 512),  # 2.4M
    "micro": ModelConfig(8_192, 320, 8, 5, 1, 1_024),  # 12M
    "tiny": ModelConfig(32_000, 768, 12, 12, 4, 3_392),  # 137M
    "medium": ModelConfig(32_000, 1_024, 24, 16, 4, 3_712),  # 369M
    "large": ModelConfig(32_000, 1_600, 32, 25, 5, 5_504),  # 1.1B
    "xlarge": ModelConfig(32_000, 1_792, 36, 28, 7, 5_952),  # 1.5B
}


def _trained_size() -> Any:
    """The option that chooses among the models under weights/."""
    return option("", "size of the trained model to take (default: whatever was trained last)", choices=tuple(SIZES))


def _trained_model() -> Any:
    """The option that names another model than those under weights/."""
    return option(
        "",
        "checkpoint folder, smollm2, shipped or a hub name (default: what was trained last under weights/; with "
        "nothing trained, the shipped model with its adapters)",
    )


@dataclass(frozen=True)
class BackendConfig:
    """What every command that runs a model takes."""

    backend: str = option(
        "auto",
        "array library; auto is mlx where it has a GPU, otherwise torch where it is installed, otherwise mlx",
        choices=("auto", "mlx", "torch"),
    )
    device: str = option("", "gpu or cpu for mlx; cuda, mps or cpu for torch (default: the best there is)")
    dtype: str = option(
        "float32", "precision of the trunk (trained weights keep float32 masters)", choices=("float32", "bfloat16")
    )


def _quantize() -> Any:
    """The option that packs a model's weights when it is loaded."""
    return option(
        0,
        "bits to pack the weights into at loading, 4 or 8 (mlx only); adapters are trained on it (0: as they are)",
        choices=(0, 4, 8),
    )


@dataclass(frozen=True)
class TemplateConfig:
    """How a published model's dialogues are written: what every command that asks one takes."""

    template_args: str = option(
        "",
        "JSON object of arguments for a published model's chat template, stored with what is trained, such as "
        "'{\"enable_thinking\": true}' (default: those that the checkpoint was trained with; else no thinking and a "
        "fixed date_string)",
    )
    chat_template: str = option("", "Jinja file to use as the chat template, for a base model that has none")


@dataclass(frozen=True)
class RunConfig(TemplateConfig, BackendConfig):
    """What every training command takes."""

    #: what may differ between a run and its resumption: where it is written, how often it is looked at, what it takes
    #: of the machine, and how fast it moves. All else decides what is computed and must be the same.
    may_change: ClassVar[frozenset[str]] = frozenset(
        "resume restart save_every out allow_swap eval_every eval_batches micro_batch_size gradient_checkpointing "
        "learning_rate value_learning_rate unfreeze_learning_rate max_grad_norm "
        "kl_coef kl_target kl_limit entropy_coef num_epochs steps_per_epoch unfreeze_epochs".split()
    )

    size: str = option("nano", "model size", choices=tuple(SIZES))
    model: str = option(
        "",
        "published checkpoint instead of a size of ours: a folder, smollm2, shipped "
        "or a hub name (NAME@REVISION for a certain one); its folders are named after it",
    )
    checkpoint: str = option("", "folder to start from (default: the stage before, under weights/SIZE/)")
    out: str = option("", "folder to write (default: weights/SIZE/STAGE)")
    data_dir: str = option("data", "folder of prepared data; SIZE is appended")
    quantize: int = _quantize()
    seed: int = option(0, "seed of every random choice", minimum=0, maximum=LARGEST_INTEGER)
    resume: bool = option(False, "continue from the last save of the same command")
    restart: bool = option(False, "begin again where the folder holds the saves of an unfinished run")
    save_every: int = option(100, "steps between saves", minimum=1)
    allow_swap: bool = option(False, "start even where the plan asks for more memory than there is")


@dataclass(frozen=True)
class PromptsConfig:
    """What every command that answers prompts takes."""

    prompts: str = option(
        "",
        "prompts of your own instead of the prepared ones: JSONL, JSON, Parquet, a text file of one on each line, a "
        "folder of them, or hub:NAME[:SPLIT]; rows hold prompt (text or messages), messages, conversations or "
        "instruction; task or tests (assert statements) and any other column is for the rewards",
    )
    prompt_field: str = option("", "column of --prompts that holds the prompt, as question in GSM8K")
    answer_field: str = option("", "column of --prompts that the reward functions get as answer")
    system: str = option("", "system turn of the prompts that have none of their own")
    max_prompts: int = option(0, "prompts to take, drawn by --seed; 0 takes all", minimum=0)
    max_prompt_tokens: int = option(
        0,
        "longest prompt, in tokens; longer ones are left out and counted (0: what the model's context leaves beside "
        "--max-tokens)",
        minimum=0,
    )


@dataclass(frozen=True)
class PrepareConfig(TemplateConfig):
    """Defaults of `mlxrlhf prepare`."""

    size: str = option("nano", "model size: it decides the vocabulary", choices=tuple(SIZES))
    model: str = option("", "published model whose tokenizer to take instead: a folder, smollm2, or a hub name")
    data_dir: str = option("data", "folder to write; SIZE is appended")
    language_sources: str = option("python-docs", "comma-separated: python-docs, registry, hub:NAME, a file or folder")
    code_sources: str = option("stdlib", "comma-separated: stdlib, package:NAME, hub:NAME, a file or folder")
    max_characters: int = option(
        20_000_000, "characters to take from each source", minimum=1_000, maximum=LARGEST_INTEGER
    )
    dialogues: int = option(2_000, "tool dialogues to make", minimum=10)
    bfcl: str = option("", "tool calls of bfcl-eval to add: package (fetched, 2 MB), or a folder of its data")
    pairs: int = option(2_000, "preference pairs to make", minimum=40)
    sources: str = option(
        "tasks", "comma-separated tasks to make them of: tasks (our own), reasoning-gym (fetched), stdlib, package:NAME"
    )
    max_code_characters: int = option(900, "longest solution to take from a source other than tasks", minimum=200)
    seed: int = option(0, "seed of every random choice", minimum=0, maximum=LARGEST_INTEGER)
    unsafe_exec: bool = option(False, "run code even where no operating-system jail is available")


@dataclass(frozen=True)
class ChatConfig(TemplateConfig, BackendConfig):
    """Defaults of `mlxrlhf chat`."""

    size: str = _trained_size()
    model: str = _trained_model()
    adapter: str = option("", "folder of LoRA adapters to put on it")
    quantize: int = _quantize()
    prompt: str = option("", "answer this one prompt and leave")
    system: str = option("", "system message")
    max_tokens: int = option(256, "longest answer, in tokens", minimum=1)
    temp: float = option(0.2, "sampling temperature; 0 is greedy; 0.2 suits code (Chen et al. 2021)", minimum=0)
    seed: int = option(0, "seed of the sampling", minimum=0, maximum=LARGEST_INTEGER)
    tools: str = option(
        "",
        "Python file whose functions (type hints, docstrings with Args:) the model may call beside "
        "the six tools; they run with all your rights, outside the sandbox. off: no tools at all",
    )
    yes: bool = option(
        False, "run tools without asking; where there is no terminal to ask at, a call is refused unless this is given"
    )
    max_rounds: int = option(5, "times in one turn that the model may see results and go on", minimum=1)
    unsafe_exec: bool = option(False, "run code even where no operating-system jail is available")
    ratings: str = option("data/ratings.jsonl", "file that /rate appends to, for reward --data")


@dataclass(frozen=True)
class FuseConfig(BackendConfig):
    """Defaults of `mlxrlhf fuse`."""

    model: str = option("", "what the adapters were trained on: a folder, smollm2, or a hub name")
    adapter: str = option("", "folder of adapters.safetensors and adapter_config.json")
    out: str = option("", "folder to write")


@dataclass(frozen=True)
class ServeConfig(TemplateConfig):
    """Defaults of `mlxrlhf serve`; it runs on MLX."""

    size: str = _trained_size()
    model: str = _trained_model()
    adapter: str = option("", "folder of LoRA adapters to put on it")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 lets other machines in: there is no password")
    port: int = option(8080, "port to listen on; 0 takes a free one", minimum=0, maximum=65_535)
    device: str = option("", "gpu or cpu (default: the best there is)")
    max_tokens: int = option(512, "longest answer where a request names none, in tokens", minimum=1)
    temp: float = option(0.2, "sampling temperature where a request names none, as in chat", minimum=0)
    allowed_origins: str = option("", "comma-separated origins of web pages that may call it; * is any page")


@dataclass(frozen=True)
class ExportConfig(BackendConfig):
    """Defaults of `mlxrlhf export`."""

    to: str = option("gguf", "what to write", choices=("gguf", "mlx-4bit", "mlx-8bit", "hf"))
    size: str = _trained_size()
    model: str = _trained_model()
    adapter: str = option("", "folder of LoRA adapters to merge first")
    out: str = option("", "folder to write; for gguf, the file")
    dtype: str = option(
        "auto",
        "precision of what is not quantised; auto is float32 for hf, bfloat16 for mlx",
        choices=("auto", "float32", "bfloat16"),
    )
    gguf_type: str = option("f16", "precision of the matrices in a GGUF file", choices=("f32", "f16", "bf16", "q8_0"))
    group_size: int = option(64, "weights that share a scale in an MLX quantisation", choices=(32, 64, 128))
    text: str = option(
        "",
        "text file to measure the cost of quantisation on (default: the prepared data's held-out "
        "part, or else Python's documentation)",
    )
    data_dir: str = option("data", "folder of prepared data; SIZE is appended")
    eval_tokens: int = option(4_096, "tokens to measure on; 0 leaves it out", minimum=0)


@dataclass(frozen=True)
class WeightsConfig(RunConfig):
    """What every command that trains the language model itself takes."""

    max_grad_norm: float = option(1.0, "global gradient norm to clip at; 0 does not clip", minimum=0)
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass: slower, smaller")
    optimizer_dtype: str = option(
        "float32", "precision of AdamW's two moments (bfloat16: mlx only)", choices=("float32", "bfloat16")
    )
    lora_rank: int = option(0, "rank of adapters to train instead of the weights; 0 trains every weight", minimum=0)
    lora_layers: int = option(0, "blocks that get adapters, the last ones: fewer take less memory; 0: all", minimum=0)
    lora_scale: float = option(2.0, "factor on the adapters' output", above=0)


@dataclass(frozen=True)
class TrainConfig(WeightsConfig):
    """Supervised language-model training (pretrain and finetune)."""

    num_epochs: int = option(1, "passes over the steps below", minimum=1)
    steps_per_epoch: int = option(1_000, "optimizer steps per epoch", minimum=1)
    batch_size: int = option(16, "rows per forward", minimum=1)
    sequence_length: int = option(256, "tokens per row", minimum=8)
    gradient_accumulation_steps: int = option(1, "forwards per optimizer step", minimum=1)
    learning_rate: float = option(1e-3, "peak learning rate of AdamW", minimum=0)
    warmup_steps: int = option(50, "steps of linear warm-up before the cosine decay", minimum=0)
    weight_decay: float = option(0.1, "decoupled weight decay on matrices", minimum=0)
    eval_every: int = option(100, "steps between validations", minimum=1)
    eval_batches: int = option(8, "validation batches", minimum=1)


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """Defaults of `mlxrlhf pretrain`."""


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """Defaults of `mlxrlhf finetune`."""

    stage: str = option("code", "what to learn", choices=("code", "tools"))
    lora_rank: int = option(
        -1,
        "rank of adapters to train instead of the weights; 0 trains every weight; -1 takes 16 with --model, else 0",
        minimum=-1,
    )
    learning_rate: float = option(
        0.0,
        "peak learning rate of AdamW; 0 takes 2e-4 with LoRA, 2e-5 for every weight of a published model, 6e-4 for "
        "those of a size of ours",
        minimum=0,
    )
    data: str = option(
        "",
        "rows of your own instead of the prepared data: JSONL, JSON, Parquet, a folder or hub:NAME[:SPLIT] of {prompt, "
        "completion}, {messages[, tools]}, {conversations} (ShareGPT), {instruction, input, output} (Alpaca) or {text}",
    )
    prompt_field: str = option("", "column of --data that holds the prompt, with --answer-field")
    answer_field: str = option("", "column of --data that holds the answer, with --prompt-field")
    dialogue_share: float = option(
        0.7,
        "share of rows that are requests with their solution; the rest is code text "
        "(code stage) or tool dialogues (tools stage)",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        # What depends on other settings is decided once, so that a run's config.json says what it was.
        if self.lora_rank == -1:
            object.__setattr__(self, "lora_rank", 16 if self.model else 0)
        if self.learning_rate == 0:
            of_weights = 2e-5 if self.model else 6e-4
            object.__setattr__(self, "learning_rate", 2e-4 if self.lora_rank else of_weights)


PAIRS_HELP = (
    "pairs instead of the prepared ones: a .jsonl, .json or .parquet file in TRL's, Anthropic HH's, UltraFeedback's or "
    "HelpSteer3's form, a folder of them, or hub:NAME[@REVISION][:SPLIT or PATTERN]"
)


def _max_length() -> Any:
    """The option that bounds preference pairs."""
    return option(
        0,
        "longest pair, in tokens of prompt and longer answer; longer ones are left out and counted (0: the model's "
        "context)",
        minimum=0,
    )


@dataclass(frozen=True)
class RewardConfig(RunConfig):
    """Defaults of `mlxrlhf reward`: a two-layer head on a frozen base."""

    data: str = option("", PAIRS_HELP)
    max_length: int = _max_length()
    loss: str = option("margin", "margin ranking or Bradley-Terry", choices=("margin", "bradley-terry"))
    margin: float = option(1.0, "margin m of max(0, m - (r_chosen - r_rejected))", minimum=0)
    samples: int = option(
        3,
        "answers of the base itself to each request, run and paired with a better one; 0 takes "
        "the prepared pairs alone",
        minimum=0,
    )
    max_tokens: int = option(160, "longest sampled answer, in tokens", minimum=1)
    temp: float = option(1.0, "sampling temperature of those answers: that of PPO's rollouts", minimum=1e-3)
    unsafe_exec: bool = option(False, "run sampled answers even where no operating-system jail is available")
    num_epochs: int = option(6, "passes over the pairs (the base runs once: features are cached)", minimum=1)
    batch_size: int = option(64, "pairs per optimizer step", minimum=1)
    learning_rate: float = option(1e-3, "learning rate of AdamW", minimum=0)
    weight_decay: float = option(0.1, "decoupled weight decay", minimum=0)
    max_grad_norm: float = option(1.0, "global gradient norm to clip at; 0 does not clip", minimum=0)
    unfreeze_rank: int = option(
        0,
        "rank of adapters that let the base learn too, after the head; 0 keeps it frozen. "
        "PPO then scores with a base of its own: one more model in memory",
        minimum=0,
    )
    unfreeze_epochs: int = option(1, "passes over the pairs with the base unfrozen", minimum=1)
    unfreeze_batch_size: int = option(16, "pairs per optimizer step in them: so few passes need many steps", minimum=1)
    unfreeze_learning_rate: float = option(5e-4, "learning rate of adapters and head in them", minimum=0)
    micro_batch_size: int = option(8, "pairs per forward with the base unfrozen", minimum=1)


def _rate_option(full: float, lora: float) -> Any:
    """The option of a learning rate whose default depends on what is trained."""
    return option(0.0, f"learning rate of AdamW; 0 takes {full:g} for full fine-tuning, {lora:g} with LoRA", minimum=0)


@dataclass(frozen=True)
class AlignConfig(WeightsConfig):
    """What the alignment stages share: ppo, grpo and dpo."""

    #: learning rate of full fine-tuning and of LoRA: adapters start at zero and want larger steps than a trained matrix
    rates: ClassVar[tuple[float, float]] = (1e-6, 3e-4)
    learning_rate: float = _rate_option(*rates)
    lora_rank: int = option(16, "rank of the adapters; 0 trains every weight", minimum=0)

    @property
    def rate(self) -> float:
        """The learning rate in use."""
        return self.learning_rate or self.rates[self.lora_rank > 0]


@dataclass(frozen=True)
class PolicyConfig(AlignConfig, PromptsConfig):
    """What ppo and grpo share: rollouts, their rewards and clipped updates."""

    reward: str = option(
        "model",
        "what is optimised: model, tests (share of the task's tests passed), lint, or "
        "FILE.py:function; several with weights as model:1,tests:2",
    )
    reward_model: str = option("", "reward head to optimise (default: weights/SIZE/reward)")
    no_pass_rate: bool = option(False, "do not run answers merely to report how many pass their tests")
    unsafe_exec: bool = option(False, "run answers even where no operating-system jail is available")
    num_epochs: int = option(1, "passes over the steps below", minimum=1)
    steps_per_epoch: int = option(40, "updates (rollout and optimisation) per epoch", minimum=1)
    batch_size: int = option(32, "prompts per rollout", minimum=1)
    responses_per_prompt: int = option(1, "responses to each prompt", minimum=1)
    mini_batch_size: int = option(16, "responses per optimizer step", minimum=1)
    micro_batch_size: int = option(
        8, "responses per forward, of similar length: it changes memory and speed, not the result", minimum=1
    )
    ppo_epochs: int = option(4, "passes over each rollout", minimum=1)
    max_tokens: int = option(160, "longest response, in tokens", minimum=1)
    temp: float = option(1.0, "sampling temperature of rollouts", minimum=1e-3)
    warmup_steps: int = option(2, "updates of linear warm-up", minimum=0)
    clip: float = option(0.2, "policy ratio clip range", minimum=0)
    entropy_coef: float = option(0.0, "weight of the entropy bonus", minimum=0)
    kl_coef: float = option(0.05, "weight beta of the KL penalty, per nat", minimum=0)
    kl_target: float = option(
        0.0, "nats per response above which beta is raised from --kl-coef; 0 keeps beta fixed", minimum=0
    )
    kl_limit: float = option(60.0, "nats per response at which the run is stopped as a runaway", minimum=0)
    missing_end_penalty: float = option(1.0, "subtracted from the score of a response without an end token", minimum=0)
    save_every: int = option(10, "updates between saves", minimum=1)


@dataclass(frozen=True)
class PPOConfig(PolicyConfig):
    """Defaults of `mlxrlhf ppo` (Schulman et al. 2017; Ziegler et al. 2019)."""

    value_learning_rate: float = option(1e-3, "learning rate of the value head", minimum=0)
    value_clip: float = option(0.2, "value clip range", minimum=0)
    vf_coef: float = option(0.1, "weight of the value loss", minimum=0)
    gamma: float = option(
        0.99,
        "discount; published RLHF work uses 1.0, because a response is one decision whose "
        "score comes at its end and should not shrink with length",
        minimum=0,
        maximum=1,
    )
    lam: float = option(0.95, "lambda of generalised advantage estimation", minimum=0, maximum=1)
    kl_in_loss: bool = option(False, "put the full KL over the vocabulary in the loss instead of the reward")
    whiten_rewards: bool = option(False, "divide rewards by their deviation (the mean is kept)")


@dataclass(frozen=True)
class GRPOConfig(PolicyConfig):
    """Defaults of `mlxrlhf grpo` (Shao et al. 2024); names and choices as in TRL."""

    batch_size: int = option(8, "prompts per rollout", minimum=1)
    responses_per_prompt: int = option(8, "responses to each prompt: the group whose scores are compared", minimum=2)
    ppo_epochs: int = option(2, "passes over each rollout", minimum=1)
    kl_coef: float = option(0.04, "weight beta of the KL penalty in the loss, per nat", minimum=0)
    scale_rewards: str = option(
        "group",
        "group divides advantages by the deviation of their group; none does not, so "
        "that easy and hard prompts are not favoured (Liu et al. 2025)",
        choices=("group", "none"),
    )
    loss_type: str = option(
        "grpo",
        "what a token weighs: grpo by its response's length, dapo all the same, dr_grpo by --max-tokens",
        choices=("grpo", "dapo", "dr_grpo"),
    )


@dataclass(frozen=True)
class DPOConfig(AlignConfig):
    """Defaults of `mlxrlhf dpo` (Rafailov et al. 2023)."""

    rates: ClassVar[tuple[float, float]] = (1e-6, 1e-4)
    learning_rate: float = _rate_option(*rates)
    data: str = option("", PAIRS_HELP)
    max_length: int = _max_length()
    num_epochs: int = option(1, "passes over the pairs", minimum=1)
    batch_size: int = option(16, "pairs per optimizer step", minimum=1)
    micro_batch_size: int = option(
        8, "most pairs per forward, of similar length: it changes memory and speed, not the result", minimum=1
    )
    micro_batch_tokens: int = option(
        4096,
        "most tokens per forward, both answers and padding included, so that long pairs go in fewer at once",
        minimum=1,
    )
    warmup_steps: int = option(10, "steps of linear warm-up before the cosine decay", minimum=0)
    beta: float = option(0.1, "weight of the implicit KL penalty: larger stays closer to the reference", above=0)
    label_smoothing: float = option(0.0, "chance that a label is wrong (conservative DPO)", minimum=0, maximum=0.5)
    eval_every: int = option(50, "steps between validations", minimum=1)


@dataclass(frozen=True)
class EvaluateConfig(RunConfig, PromptsConfig):
    """Defaults of `mlxrlhf evaluate`: the reference against the aligned model on held-out prompts."""

    reward_model: str = option("", "reward head that judges (default: weights/SIZE/reward)")
    before: str = option("", "checkpoint to compare with (default: weights/SIZE/tools)")
    suite: str = option(
        "tasks",
        "what to answer: tasks (held-out requests, judged by the reward model too), humaneval "
        "(164 functions to complete, fetched once, never trained on) or all",
        choices=("tasks", "humaneval", "all"),
    )
    samples: int = option(1, "sampled answers per held-out prompt", minimum=1)
    best_of: int = option(
        1,
        "answers of the model after alignment to sample for each, of which the reward model keeps the best",
        minimum=1,
    )
    max_tokens: int = option(160, "longest answer, in tokens", minimum=1)
    temp: float = option(0.2, "sampling temperature, as in chat", minimum=0)
    unsafe_exec: bool = option(False, "run answers even where no operating-system jail is available")


@dataclass(frozen=True)
class AnnotateConfig(TemplateConfig, BackendConfig, PromptsConfig):
    """Defaults of `mlxrlhf annotate`: people compare two answers on a local web page."""

    data: str = option(
        "", "pairs to judge, in any form that reward --data reads; a row may carry tests, a list of assert statements"
    )
    size: str = option(
        "nano", "whose prepared pairs to judge when neither --data nor --prompts is given", choices=tuple(SIZES)
    )
    data_dir: str = option("data", "folder of prepared data; SIZE is appended")
    model: str = option(
        "", "who answers --prompts: a checkpoint folder, smollm2, shipped or a hub name (default: who answers in chat)"
    )
    model_b: str = option("", "who gives the other answer (default: the same model again)")
    max_tokens: int = option(256, "longest sampled answer, in tokens", minimum=1)
    temp: float = option(0.7, "sampling temperature of the answers", minimum=1e-3)
    seed: int = option(0, "seed of samples, order, sides and repeats", minimum=0, maximum=LARGEST_INTEGER)
    db: str = option("data/annotations.db", "SQLite file of items and votes; it is kept and added to")
    overlap: int = option(2, "people who judge each item", minimum=1)
    repeats: float = option(
        0.05, "share of items shown to a person a second time, unannounced, sides exchanged", minimum=0, maximum=0.5
    )
    host: str = option("127.0.0.1", "address to serve on; any but this machine's own asks for a token in the link")
    port: int = option(8765, "port to serve on; 0 takes a free one", minimum=0, maximum=65_535)
    no_open: bool = option(False, "do not open the page in a browser")
    stats: bool = option(False, "print agreement instead of serving")
    export: str = option("", "file to write instead of serving")
    format: str = option(
        "trl",
        "of --export: trl (for mlxrlhf reward --data) and helpsteer3 have a line per item, csv a row per vote",
        choices=("trl", "helpsteer3", "csv"),
    )
    unsafe_exec: bool = option(False, "run tests of answers even where no operating-system jail is available")


#: What `mlxrlhf demo` changes: reward, ppo and evaluate on the shipped model within five minutes on two CPU cores.
DEMO: dict[str, dict[str, Any]] = {
    # Half of the default: every pair's label is run, and twice as many held-out pairs tell the same.
    "prepare": dict(pairs=1_000),
    # The base's own answers are what PPO is paid for, so some must be judged; there is time for one to a request.
    "reward": dict(temp=0.7, samples=1, max_tokens=128),
    # As from scratch, for the reasons given there. Twenty updates, so that the first ten and the last ten, which are
    # compared, do not overlap; 16 answers in each is what there is time for.
    "ppo": dict(
        steps_per_epoch=20,
        batch_size=16,
        mini_batch_size=8,
        ppo_epochs=2,
        max_tokens=128,
        temp=0.7,
        gamma=1.0,
        lam=1.0,
        kl_coef=0.1,
        lora_rank=8,
        learning_rate=6e-4,
        reward="model:1,tests:2",
    ),
    "evaluate": dict(max_tokens=128),
}

#: What `mlxrlhf demo --from-scratch` changes: every stage at size nano within eight minutes on two CPU cores.
DEMO_FROM_SCRATCH: dict[str, dict[str, Any]] = {
    "prepare": dict(max_characters=1_000_000),
    "pretrain": dict(
        steps_per_epoch=30,
        batch_size=16,
        sequence_length=128,
        warmup_steps=5,
        learning_rate=3e-3,
        eval_every=30,
        eval_batches=2,
    ),
    # Small batches: with so few tokens to spend, more steps teach more than smoother ones.
    "code": dict(
        steps_per_epoch=560,
        batch_size=6,
        sequence_length=160,
        warmup_steps=20,
        learning_rate=3e-3,
        dialogue_share=0.93,
        eval_every=280,
        eval_batches=4,
    ),
    "tools": dict(
        steps_per_epoch=60,
        batch_size=8,
        sequence_length=224,
        warmup_steps=5,
        learning_rate=6e-4,
        dialogue_share=0.7,
        eval_every=60,
        eval_batches=4,
    ),
    "reward": dict(temp=0.7, samples=2),
    # One decision early in an answer (type hints or none) earns a score 40 tokens later: nothing may discount it.
    # Paid by the reward model alone, as many answers parse as before; with tests beside it, more do.
    "ppo": dict(
        steps_per_epoch=24,
        ppo_epochs=2,
        max_tokens=128,
        temp=0.7,
        gamma=1.0,
        lam=1.0,
        kl_coef=0.1,
        lora_rank=8,
        learning_rate=6e-4,
        reward="model:1,tests:2",
    ),
    "evaluate": {},
}
