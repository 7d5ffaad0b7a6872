"""`mlxrlhf`: thin commands over the library. Heavy libraries are imported inside the command that needs them."""

from __future__ import annotations

import sys

import typer

from mlxrlhf import __version__
from mlxrlhf.errors import UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Align a language model on a Mac: pretrain, finetune, reward, ppo, chat.")


@app.callback(invoke_without_command=True)
def main(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def doctor() -> None:
    """Check this machine: device, memory, MLX, BLAS, sandbox, and a small training step against the CPU.

    Example: mlxrlhf doctor
    """
    from mlxrlhf import backends
    from mlxrlhf.agent import sandbox

    backend = backends.load("auto")
    for name, value in backend.describe_device().items():
        typer.echo(f"{name:10} {value}")
    typer.echo(f"{'sandbox':10} {sandbox.level()}")
    difference = backend.device_check()
    typer.echo(f"{'check':10} loss and gradients differ from the CPU's by at most {difference:.1e} (allowed: 1e-3)")
    slope = backend.gradient_check()
    typer.echo(f"{'':10} the gradient differs from the loss's measured slope by {slope:.1e} (allowed: 1e-2)")
    if not (difference < 1e-3 and slope < 1e-2):
        raise UserError("this device computes wrong gradients; update macOS and MLX before you train")


def run() -> None:
    """Entry point: a UserError becomes one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"mlxrlhf: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    run()
