"""mlx-lm's server, held to one model: see agent/serve.py."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import mlx_lm
from mlx_lm.models.cache import LRUPromptCache
from mlx_lm.server import APIHandler, ModelProvider, ResponseGenerator

from mlxrlhf.config import ServeConfig
from mlxrlhf.errors import UserError


class Provider(ModelProvider):
    """The one model that was asked for. The stock provider loads whatever folder or hub model a request names."""

    def __init__(
        self,
        folder: Path,
        name: str,
        config: ServeConfig,
        prompt: Callable,
        tool_parser: str,
        ends: Sequence[int],
        max_positions: int,
    ):
        # What `python -m mlx_lm.server` would parse from its command line.
        super().__init__(
            SimpleNamespace(
                model=str(folder),
                adapter_path=config.adapter or None,
                draft_model=None,
                num_draft_tokens=3,
                trust_remote_code=False,
                chat_template="",
                use_default_chat_template=False,
                chat_template_args={},
                allowed_origins=[origin.strip() for origin in config.allowed_origins.split(",") if origin.strip()],
                temp=config.temp,
                top_p=1.0,
                top_k=0,
                min_p=0.0,
                max_tokens=config.max_tokens,
                pipeline=False,
                decode_concurrency=32,
                prompt_concurrency=8,
                prefill_step_size=2048,
                prompt_cache_size=10,
                prompt_cache_bytes=None,
                kv_bits=None,
                kv_group_size=64,
                quantized_kv_start=0,
            )
        )
        self.name, self.names = name, {name, "default_model", str(folder), str(folder.resolve())}
        self.loaded, self.prompt, self.max_positions, self.ends = threading.Event(), prompt, max_positions, ends
        if tool_parser:
            self._tokenizer_config["tool_parser_type"] = tool_parser  # for folders that do not say it themselves

    def load_default(self):
        try:
            super().load_default()
        finally:
            self.loaded.set()

    def load(self, model_path, adapter_path=None, draft_model_path=None):
        if model_path not in self.names:
            raise ValueError(f"no model {model_path!r} here; this server has {self.name!r}")
        model, tokenizer = super().load("default_model", None, "default_model")
        tokenizer.apply_chat_template, tokenizer.has_chat_template = self._prompt, True
        tokenizer.eos_token_ids = self.ends
        return model, tokenizer

    def _prompt(self, messages: list[dict], *, tools: list[dict] | None = None, **settings) -> list[int]:
        """In the place of transformers' method: what this model was trained to see, its template's arguments fixed."""
        ids = self.prompt(messages, tools)
        if len(ids) >= self.max_positions:
            raise UserError(
                f"the conversation has {len(ids):,} tokens; the model's context holds {self.max_positions:,}"
            )
        return ids


class Handler(APIHandler):
    def handle_models_request(self):
        """The model that is served; the stock method lists the hub's cache, and fails where there is none."""
        self._set_completion_headers(200)
        self.end_headers()
        model = {
            "id": self.response_generator.model_provider.name,
            "object": "model",
            "created": self.created,
            "owned_by": "mlxrlhf",
        }
        self.wfile.write(json.dumps({"object": "list", "data": [model]}).encode())


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that left is no error
            super().handle_error(request, client_address)


def serve(
    folder: Path,
    name: str,
    config: ServeConfig,
    *,
    prompt: Callable,
    tool_parser: str,
    ends: Sequence[int],
    max_positions: int,
) -> None:
    """Answer requests until Ctrl-C, and end the process.

    prompt: makes the ids of (messages, tools). tool_parser: a module of mlx_lm.tool_parsers, or "" for the one that
    mlx-lm finds by the template. ends: ids that end an answer. Raises UserError for a bad address or model.
    """
    generator = None

    def handler(*arguments):
        Handler(generator, *arguments)

    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        Server.address_family, address = found[0][0], found[0][4]
        server = Server(address, handler)
    except OSError as error:
        raise UserError(
            f"cannot listen on {config.host}:{config.port} ({error.strerror}); choose another --port or --host"
        ) from None
    try:
        # A trial: the server's own thread, where an array has to be made to be used, could only log a failure.
        mlx_lm.load(
            str(folder),
            adapter_path=config.adapter or None,
            lazy=True,
            tokenizer_config={"trust_remote_code": False},
            trust_remote_code=False,
        )
    except Exception as error:  # whatever a folder of another maker may lack
        raise UserError(
            f"mlx-lm cannot load {folder} ({(str(error) or repr(error)).splitlines()[0]}); take a model "
            "that `mlx_lm.generate` runs"
        ) from None
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    provider = Provider(folder, name, config, prompt, tool_parser, ends, max_positions)
    generator = ResponseGenerator(provider, LRUPromptCache(provider.cli_args.prompt_cache_size))
    try:
        provider.loaded.wait()
        if provider.model is None:
            raise UserError(f"mlx-lm could not load {folder}: see above")
        host, port = server.server_address[:2]
        print(f"serving {name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1; Ctrl-C stops it", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(flush=True)
    server.server_close()
    generator.stop_and_join()
    # MLX cleans up after the generation thread while it ends; an ordinary exit now and then meets it and aborts.
    os._exit(0)
