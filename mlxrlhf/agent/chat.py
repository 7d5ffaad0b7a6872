"""A conversation in the terminal: streaming, several turns, Ctrl-C stops the answer and not the program."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from mlxrlhf import backends, published
from mlxrlhf.checkpoint import read_config
from mlxrlhf.config import ChatConfig
from mlxrlhf.data.dialogue import AnyTokenizer, render_prompt
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.stages import folders

LATEST_FIRST = ("rlhf", "tools", "code", "language")


def find_model(config: ChatConfig) -> Path:
    """The folder asked for, or the last stage there is."""
    if config.model:
        return published.fetch(config.model)
    for stage in LATEST_FIRST:
        folder = folders.weights(config.size, stage)
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"there is no trained model under weights/{config.size}; run: mlxrlhf demo")


def run(config: ChatConfig) -> None:
    """Answer --prompt, or talk until end of input (Ctrl-D)."""
    folder = find_model(config)
    model_config, tokenizer = read_config(folder), open_tokenizer(folder)
    backend = backends.load(config.backend, config.device)
    model = backend.Model(model_config, folder=folder, dtype=config.dtype)
    messages = [{"role": "system", "content": config.system}] if config.system else []
    if config.prompt:
        _answer(model, backend, tokenizer, [*messages, {"role": "user", "content": config.prompt}], config, 0)
        return
    print(f"{folder}: {model_config.parameters() / 1e6:.1f}M parameters. Ctrl-C stops an answer, Ctrl-D leaves.")
    turn = 0
    while True:
        try:
            text = input("> ")
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            print()
            return
        if text.strip():
            messages.append({"role": "user", "content": text})
            try:
                answer = _answer(model, backend, tokenizer, messages, config, turn)
                messages.append({"role": "assistant", "content": answer})
            except UserError as error:
                messages.pop()
                print(f"mlxrlhf: {error}", file=sys.stderr)
            turn += 1


def _answer(model, backend, tokenizer: AnyTokenizer, messages: list[dict], config: ChatConfig, turn: int) -> str:
    """Stream one answer and its footer; Ctrl-C keeps what was said so far."""
    prompt = render_prompt(messages, tokenizer)
    room = model.config.max_positions - len(prompt)
    if room < 1:
        raise UserError(f"the conversation has {len(prompt):,} tokens, more than the model's context of "
                        f"{model.config.max_positions:,}; start again with a shorter prompt")
    limit, push, began, said, count = min(config.max_tokens, room), tokenizer.stream_decoder(), time.monotonic(), [], 0

    def show(token: int) -> None:
        nonlocal count
        count += 1
        if token != tokenizer.end_id:
            said.append(push(token))
            print(said[-1], end="", flush=True)

    uniforms = np.random.default_rng([config.seed, turn]).random((1, limit))
    try:
        model.generate([prompt], uniforms=uniforms, max_tokens=limit, temperature=config.temp,
                       stop_ids=[tokenizer.end_id], pad_id=tokenizer.pad_id, on_token=show)
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    seconds = time.monotonic() - began
    print()
    print(f"[{count} tokens, {count / seconds:.0f} tok/s, {backend.peak_memory() / 2**30:.2f} GB]", file=sys.stderr)
    return "".join(said)
