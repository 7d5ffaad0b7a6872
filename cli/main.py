"""`mlxrlhf`: thin commands over the library. Heavy libraries are imported inside the command that needs them."""

from __future__ import annotations

import inspect
import os
import sys
import typing
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

import typer

from mlxrlhf import __version__, config
from mlxrlhf.display import cleaned
from mlxrlhf.errors import UserError
from mlxrlhf.settings import read_yaml, validate, write_yaml
from mlxrlhf.workspace import use_root

from . import ending
from .panels import order, panel

# transformers says at every start that PyTorch is missing, and that some settings are new.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

app = typer.Typer(
    cls=ending.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Align a language model on a Mac: pretrain, finetune, reward, ppo, chat.",
)


@app.callback(invoke_without_command=True)
def main(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def doctor(
    backend: Annotated[str, typer.Option(help="auto, mlx or torch")] = "auto",
    device: Annotated[str, typer.Option(help="device of the backend (default: the best)")] = "",
) -> None:
    """Check this machine: device, memory, MLX, BLAS, sandbox, and a small training step against the CPU.

    Example: mlxrlhf doctor
    """
    from mlxrlhf import backends
    from mlxrlhf.backends import doctor as checks
    from mlxrlhf.sandbox import runner

    library = backends.load(backend, device)
    for name, value in library.describe_device().items():
        typer.echo(f"{name:10} {value}")
    typer.echo(f"{'sandbox':10} {runner.describe()}")
    difference = checks.device_check(library)
    typer.echo(f"{'check':10} loss and gradients differ from the CPU's by at most {difference:.1e} (allowed: 1e-3)")
    slope = checks.gradient_check(library)
    typer.echo(f"{'':10} the gradient differs from the loss's measured slope by {slope:.1e} (allowed: 1e-2)")
    if not (difference < 1e-3 and slope < 1e-2):
        raise UserError("this device computes wrong gradients; update macOS and MLX before you train")


def say(text: str) -> None:
    """A line of a stage's, which may hold a model's words or a file's."""
    typer.echo(cleaned(text))


# --- commands whose flags are the fields of a config dataclass -------------------------------------------------------


def _option(name: str, default: Any, kind: Any, help: str, *flags: str) -> inspect.Parameter:
    """A flag, as Typer reads it from a function's signature."""
    declared = typer.Option(*(flags or ("--" + name.replace("_", "-"),)), help=help, rich_help_panel=panel(name))
    annotation = Annotated[kind, declared]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
#: what every command takes beside its own settings
_COMMON = (
    _option("config_file", "", str, "YAML file of these flags by name; the command line wins", "-c", "--config"),
    _option("print_config", False, bool, "print the settings as the YAML that --config reads, and leave"),
    _option("root", "", str, "folder that weights/, data/ and runs/ hang on (default: the working folder)"),
)


class Command(Protocol):
    """A command made of its settings. settings_of: the parsed flags, and those of a YAML file, as the dataclass."""

    settings_of: Callable[..., Any]

    def __call__(self, **values: Any) -> Any: ...


def _help(f: Field[Any]) -> str:
    choices = f.metadata["choices"]
    return f.metadata["help"] + (f" ({', '.join(map(str, choices))})" if choices else "")


def options_of(kind: type, *leading: inspect.Parameter) -> Callable[[Callable[..., Any]], Command]:
    """Give a command(config) the flags of a config dataclass: name, default, help, bounds and choices come from it."""

    def decorate(command: Callable[..., Any]) -> Command:
        hints = typing.get_type_hints(kind)
        flags = [_option(f.name, f.default, hints[f.name], _help(f)) for f in fields(kind)]
        parameters = [_context, *leading, *sorted([*flags, *_COMMON], key=lambda flag: order(flag.name))]

        def settings_of(context: typer.Context, config_file: str, **values: Any) -> Any:
            if config_file:
                for name, value in read_yaml(Path(config_file), kind).items():
                    if cast(Any, context.get_parameter_source(name)).name != "COMMANDLINE":
                        values[name] = value
            settings = kind(**values)
            validate(settings)
            return settings

        def wrapper(print_config: bool, root: str, **values: Any) -> Any:
            first = {p.name: values.pop(p.name) for p in leading}
            settings = settings_of(**values)
            if print_config:
                typer.echo(write_yaml(settings), nl=False)
                return None
            use_root(Path(root))
            return command(settings, **first)

        made = cast(Any, wrapper)
        made.settings_of = settings_of
        made.__signature__ = inspect.Signature(parameters)
        made.__annotations__ = {p.name: p.annotation for p in parameters}
        made.__name__, made.__doc__ = command.__name__, command.__doc__
        return made

    return decorate


def _finish(figures: dict[str, Any]) -> None:
    """The figures of a training command, and what to do next."""
    wrote = figures.pop("wrote", "")
    _report(figures)
    if wrote and (Path(wrote) / "reward.json").is_file():
        say(f"wrote {wrote}; align a model to it: mlxrlhf ppo --reward-model {wrote}")
    elif wrote:
        say(
            f"wrote {wrote}; talk to it: mlxrlhf chat --model {wrote}; export it: mlxrlhf export --model {wrote} "
            f"--out {Path(wrote).name}.gguf"
        )


def _report(figures: dict) -> None:
    for name, value in figures.items():
        if isinstance(value, list):
            continue  # a verdict was said at the end of the run, a curve is drawn in report.html
        say(f"{name:28} {value:.4g}" if isinstance(value, float) else f"{name:28} {value}")


_part = inspect.Parameter(
    "part",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[str, typer.Argument(help="tokenizer, language, code, tools, preferences or all")],
)


@app.command()
@options_of(config.PrepareConfig, _part)
def prepare(settings: config.PrepareConfig, part: str) -> None:
    """Make the data of a stage: tokenizer, language, code, tools, preferences, or all.

    Example: mlxrlhf prepare all --size nano
    """
    from mlxrlhf.stages import prepare as stage

    if part not in (*stage.PARTS, "all"):
        raise UserError(f"prepare {part}: choose one of {', '.join(stage.PARTS)} or all")
    stage.run(part, settings, say)


@app.command()
@options_of(config.PretrainConfig)
def pretrain(settings: config.PretrainConfig) -> None:
    """Train a language model from random weights on plain text.

    Example: mlxrlhf pretrain --size nano --steps-per-epoch 500
    """
    from mlxrlhf.stages import pretrain as stage

    _finish(stage.run(settings))


@app.command()
@options_of(config.FinetuneConfig)
def finetune(settings: config.FinetuneConfig) -> None:
    """Learn code, then tool calling; only the assistant's turns are trained on.

    Example: mlxrlhf finetune --stage tools --size nano
    """
    from mlxrlhf.stages import finetune as stage

    _finish(stage.run(settings))


@app.command()
@options_of(config.RewardConfig)
def reward(settings: config.RewardConfig) -> None:
    """Train the reward model on preference pairs: a two-layer head on the frozen tools checkpoint.

    Example: mlxrlhf reward --size nano --num-epochs 10
    """
    from mlxrlhf.stages import reward as stage

    _finish(stage.run(settings))


@app.command()
@options_of(config.PPOConfig)
def ppo(settings: config.PPOConfig) -> None:
    """Align the model to a reward (a reward model, tests, lint, your own) with proximal policy optimisation.

    Example: mlxrlhf ppo --size nano --steps-per-epoch 40
    """
    from mlxrlhf.stages import ppo as stage

    _finish(stage.run(settings))


@app.command()
@options_of(config.GRPOConfig)
def grpo(settings: config.GRPOConfig) -> None:
    """Align without a critic: each response is judged against the others to its prompt.

    Example: mlxrlhf grpo --size nano --reward tests:1,lint:0.5
    """
    from mlxrlhf.stages import grpo as stage

    _finish(stage.run(settings))


@app.command()
@options_of(config.DPOConfig)
def dpo(settings: config.DPOConfig) -> None:
    """Align on preference pairs directly: no reward model and no sampling.

    Example: mlxrlhf dpo --size nano --data pairs.jsonl
    """
    from mlxrlhf.stages import dpo as stage

    _finish(stage.run(settings))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(
    context: typer.Context,
    stage: Annotated[str, typer.Option(help="pretrain, finetune, reward, ppo, grpo, dpo or evaluate")] = "ppo",
    prompt_tokens: Annotated[int, typer.Option(help="longest prompt, where the stage has prompts", min=1)] = 64,
    answer_tokens: Annotated[int, typer.Option(help="longest answer of preference data", min=1)] = 160,
) -> None:
    """Say how much memory and time a command will take. It takes that command's flags and loads no model.

    Example: mlxrlhf plan --size large --stage ppo --dtype bfloat16 --micro-batch-size 2
    """
    from mlxrlhf import backends
    from mlxrlhf import plan as planning

    commands = dict(pretrain=pretrain, finetune=finetune, reward=reward, ppo=ppo, grpo=grpo, dpo=dpo, evaluate=evaluate)
    if stage not in commands:
        raise UserError(f"--stage {stage}: choose one of {', '.join(commands)}")
    parser = cast(Any, typer.main.get_command(app)).commands[stage]
    parsed = parser.make_context(stage, list(context.args), parent=context)
    values = {name: value for name, value in parsed.params.items() if name not in ("print_config", "root")}
    settings = commands[stage].settings_of(context=parsed, **values)
    backend = backends.load(settings.backend, settings.device)
    for line in planning.describe(settings, backend, prompt_tokens, answer_tokens):
        typer.echo(line)


@app.command()
@options_of(config.EvaluateConfig)
def evaluate(settings: config.EvaluateConfig) -> None:
    """Compare the model before and after alignment on held-out prompts.

    Example: mlxrlhf evaluate --size nano --samples 2
    """
    from mlxrlhf.report.page import HEADINGS, figures_rows
    from mlxrlhf.stages import evaluate as stage

    figures = stage.run(settings)
    for row in [HEADINGS, *figures_rows(figures)]:
        say("{:22}{:>10}{:>10}{:>18}".format(*row))
    say("change: with its 95% interval, paired over the prompts; * beyond noise")


@app.command()
@options_of(config.FuseConfig)
def fuse(settings: config.FuseConfig) -> None:
    """Merge LoRA adapters into the checkpoint they were trained on.

    Example: mlxrlhf fuse --model smollm2 --adapter weights/smollm2/rlhf/adapters --out fused
    """
    from mlxrlhf.stages import fuse as stage

    typer.echo(f"wrote {stage.run(settings)}")


@app.command()
@options_of(config.ExportConfig)
def export(settings: config.ExportConfig) -> None:
    """Write a checkpoint for other programs: a GGUF file, a quantised MLX folder, or a Hugging Face folder.

    Example: mlxrlhf export --to mlx-4bit --size nano --out exported/nano-4bit
    """
    from mlxrlhf.stages import export as stage

    _report(stage.run(settings, say))


@app.command()
@options_of(config.ServeConfig)
def serve(settings: config.ServeConfig) -> None:
    """Serve a model over OpenAI's chat completions protocol (mlx-lm's server): streaming and tool calls.

    Example: mlxrlhf serve --size nano --port 8080
    """
    from mlxrlhf.agent import serve as server

    server.run(settings)


@app.command()
@options_of(config.ChatConfig)
def chat(settings: config.ChatConfig) -> None:
    """Talk to a trained model; it may call tools, each shown and asked for before it runs in the sandbox.

    In a conversation, /help lists the commands. With --prompt, the answer goes to stdout, and calls, results and
    figures to stderr.

    Example: mlxrlhf chat --size nano --prompt "Write a function to check if a number is prime"
    """
    from mlxrlhf.agent import repl

    repl.run(settings)


@app.command()
@options_of(config.AnnotateConfig)
def annotate(settings: config.AnnotateConfig) -> None:
    """Judge pairs of answers on a local web page; --stats prints agreement, --export writes training data.

    Example: mlxrlhf annotate --data pairs.jsonl
    """
    from mlxrlhf.annotate import run as stage

    stage.run(settings, say)


@app.command()
def demo(
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch", help="train from random weights, every stage; otherwise align the shipped model"
        ),
    ] = False,
    size: Annotated[str, typer.Option(help="with --from-scratch: nano or micro (default: nano)")] = "",
    backend: Annotated[str, typer.Option(help="mlx or torch")] = "mlx",
    device: Annotated[str, typer.Option(help="device of the backend (default: the best)")] = "",
) -> None:
    """Align the shipped model on real input: reward model, PPO, before/after table, runs/demo/report.html.

    Example: mlxrlhf demo
    """
    from mlxrlhf.stages import demo as stages

    if size not in ("", "nano", "micro"):
        raise UserError(f"--size {size}: the demo is made for nano and micro")
    if size and not from_scratch:
        raise UserError(f"--size {size} goes with --from-scratch; without it the demo aligns the shipped model")
    stages.run((size or "nano") if from_scratch else "", backend, device, say)


def run() -> None:
    """Entry point: what goes wrong becomes one sentence and an exit code (see ending.py)."""
    sys.exit(ending.run(app))


if __name__ == "__main__":
    run()
