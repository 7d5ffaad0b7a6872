"""A conversation with a model that may call tools.

Every answer re-reads the whole conversation: the KV cache lives for one answer. At size nano that is milliseconds; with
smollm2 on two CPU cores a conversation of 1,000 tokens costs about six seconds before each answer, the listing of the
six tools (470 tokens there) three of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from mlxrlhf.agent import terminal, tools
from mlxrlhf.config import ChatConfig
from mlxrlhf.data import dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import TOOL_CALL, PublishedTokenizer, open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders
from mlxrlhf.models.adapters import load_model

REFUSED = "error: the user refused this call"
NOBODY = "error: this call was refused: there is nobody to ask for permission"
STOPPED = "error: the user stopped this call"
TOO_MANY = "error: not run: this turn has had all the calls it may make"
CUT_OFF = "error: the tool call was cut off before its end; write a shorter one"
NO_SANDBOX = "error: this tool cannot run on this machine"


@dataclass(frozen=True)
class Voice:
    """A model that answers."""

    name: str
    model: object  # backends.protocol.Model
    tokenizer: AnyTokenizer

    @classmethod
    def load(cls, found: folders.Found, backend, config: ChatConfig) -> Voice:
        """The model of a checkpoint folder, under the name that the user has for it."""
        tokenizer = open_tokenizer(found.folder)
        model = load_model(backend, found.folder, found.adapter, dtype=config.dtype)
        return cls(found.name, model, tokenizer)

    def prompt(self, messages: list[dict], offered: dict[str, tools.Tool]) -> list[int]:
        """Ids up to the answer, with the tools on offer as this model was trained to see them."""
        if not isinstance(self.tokenizer, PublishedTokenizer) and set(offered) <= set(tools.TOOLS):
            offered = {}  # our own dialogues call the six without a listing; others, such as bfcl-eval's, have one
        return dialogue.prompt(messages, self.tokenizer, tools.schemas(offered) if offered else ())


@dataclass(frozen=True)
class Answer:
    """What a model said, and why it ended: by itself, by Ctrl-C, or at its last token."""

    text: str
    stopped: bool
    cut_off: bool


@dataclass
class Chat:
    """One conversation: what was said, who answers, which tools may run."""

    voice: Voice
    backend: object
    config: ChatConfig
    own: dict[str, tools.Tool] = field(default_factory=dict)

    def __post_init__(self):
        self.messages = [{"role": "system", "content": self.config.system}] if self.config.system else []
        self.temp, self.tools_on = self.config.temp, self.config.tools != "off"
        self.always: set[str] = set()  # tools that run without asking
        self.compared = None  # the last two answers side by side, for /rate
        self.other: Voice | None = None  # the model of the last /compare
        self.answers = 0

    @property
    def available(self) -> dict[str, tools.Tool]:
        """Every tool there is, on or off."""
        return {**tools.TOOLS, **self.own}

    def send(self, text: str) -> None:
        """The user's message, and what the model answers and does. An error takes the message back."""
        # Bytes that are no UTF-8 are no text for a tokenizer.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        message = {"role": "user", "content": text}
        self.messages.append(message)
        self.compared = None
        try:
            self.respond()
        except UserError:
            if self.messages[-1] is message:
                self.messages.pop()
            raise

    def respond(self) -> None:
        """Answer, run what the answer calls, and answer again, at most --max-rounds times."""
        for number in range(self.config.max_rounds + 1):
            answer = self.answer(self.voice, self.messages)
            self.messages.append({"role": "assistant", "content": answer.text})
            if not self.tools_on or answer.stopped:
                return
            calls = tools.parse_calls(answer.text, self.available)
            if not calls:
                return
            if number == self.config.max_rounds:
                terminal.note(f"[not run: the limit of --max-rounds {self.config.max_rounds} is reached]")
                self.messages += [{"role": "tool", "content": TOO_MANY} for _ in calls]
                return
            if not self._run_all(calls, answer):
                return

    def answer(self, voice: Voice, messages: list[dict], show: bool = True) -> Answer:
        """One answer, streamed with its footer where it is shown; Ctrl-C keeps what was said so far."""
        model, tokenizer = voice.model, voice.tokenizer
        prompt = voice.prompt(messages, self.available if self.tools_on else {})
        room = model.config.max_positions - len(prompt)
        if room < 1:
            listed = len(voice.prompt(messages, {})) < len(prompt)
            raise UserError(
                f"the conversation has {len(prompt):,} tokens, more than the model's context of "
                f"{model.config.max_positions:,}; start again with a shorter prompt"
                + (", or with --tools off, which leaves their listing out" if listed else "")
            )
        limit, push, began = min(self.config.max_tokens, room), tokenizer.stream_decoder(), time.monotonic()
        said: list[str] = []
        heard: list[int] = []
        stream = terminal.Stream(
            terminal.say if show else lambda text: None,
            hide_calls=self.tools_on and show,
            on_call=lambda: terminal.note("[a tool call ...]"),
        )

        def hear(token: int) -> None:
            heard.append(token)
            if token != tokenizer.end_id:
                said.append(push(token))
                stream.push(said[-1])

        uniforms = np.random.default_rng([self.config.seed, self.answers]).random((1, limit))
        self.answers += 1
        stopped = False
        try:
            model.generate(
                [prompt],
                uniforms=uniforms,
                max_tokens=limit,
                temperature=self.temp,
                stop_ids=[tokenizer.end_id],
                pad_id=tokenizer.pad_id,
                on_token=hear,
            )
        except KeyboardInterrupt:
            if not show:
                raise
            stopped = True
        seconds = time.monotonic() - began
        stream.finish()
        stream.break_line()
        if show:
            terminal.note(
                f"[{'stopped, ' * stopped}{len(heard)} tokens, {len(heard) / seconds:.0f} tok/s, "
                f"{self.backend.peak_memory() / 2**30:.2f} GB]"
            )
        return Answer("".join(said), stopped, len(heard) == limit and heard[-1] != tokenizer.end_id)

    # --- tools -----------------------------------------------------------------------------------------------------

    def _run_all(self, calls: list, answer: Answer) -> bool:
        """Run the calls in order and append their results; False when the user stopped one, and with it the turn."""
        stopped = False
        for index, call in enumerate(calls):
            result = STOPPED
            if isinstance(call, tools.ParseError):
                cut = answer.cut_off and index == len(calls) - 1
                result = CUT_OFF if cut else call.message
                terminal.note(f"[not run: {terminal.cleaned(result.removeprefix('error: '))}]")
                terminal.note(f"  {terminal.cleaned(answer.text[answer.text.find(TOOL_CALL) :])}")
            elif not stopped:
                try:
                    result = self._run(call["name"], call["arguments"])
                except (KeyboardInterrupt, EOFError):
                    terminal.note("[stopped]")
                    stopped = True
            self.messages.append({"role": "tool", "content": result})
        return not stopped

    def _run(self, name: str, arguments: dict) -> str:
        """Show one call, ask, run it and show its result. Ctrl-C and Ctrl-D at the question stop the turn."""
        terminal.show_call(name, arguments)
        if not (self.config.yes or name in self.always):
            if not terminal.interactive():
                terminal.note("[not run: there is no terminal to ask at; --yes runs tools without asking]")
                return NOBODY
            if not self._allowed(name):
                return REFUSED
        began = time.monotonic()
        try:
            result = tools.call(name, arguments, unsafe=self.config.unsafe_exec, available=self.available)
        except UserError as error:  # no sandbox
            terminal.note(f"[not run: {error}]")
            return NO_SANDBOX
        terminal.show_result(result, name, time.monotonic() - began)
        return result

    def _allowed(self, name: str) -> bool:
        while True:
            reply = terminal.ask(f"run it? [y]es, [n]o, [a]lways {name}: ").strip().lower()
            if reply in ("a", "always"):
                self.always.add(name)
            if reply in ("y", "yes", "a", "always"):
                return True
            if reply in ("n", "no"):
                return False
