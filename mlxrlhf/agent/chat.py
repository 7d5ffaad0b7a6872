"""A conversation with a model that may call tools.

Every answer re-reads the whole conversation: the KV cache lives for one answer. At size nano that is milliseconds; with
smollm2 on two CPU cores a conversation of 1,000 tokens costs about six seconds before each answer, the listing of the
six tools (470 tokens there) three of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlxrlhf.agent import terminal, tools
from mlxrlhf.backends.protocol import Model
from mlxrlhf.config import ChatConfig
from mlxrlhf.data import calls, dialogue
from mlxrlhf.data.dialogue import AnyTokenizer
from mlxrlhf.data.tokenizer import PublishedTokenizer
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
class LoadedModel:
    """A model that answers."""

    name: str
    model: Model
    tokenizer: AnyTokenizer

    @classmethod
    def load(cls, found: folders.Found, backend, config: ChatConfig) -> LoadedModel:
        """The model of a checkpoint folder, under the name that the user has for it."""
        tokenizer = folders.tokenizer_for(config, found.folder, found.adapter)
        model = load_model(backend, found.folder, found.adapter, dtype=config.dtype, quantize=config.quantize)
        return cls(found.name, model, tokenizer)

    def prompt(self, messages: list[dict], offered: dict[str, tools.Tool]) -> list[int]:
        """Ids up to the answer, with the tools on offer as this model was trained to see them."""
        if not isinstance(self.tokenizer, PublishedTokenizer) and set(offered) <= set(tools.TOOLS):
            offered = {}  # our own dialogues call the six without a listing; others, such as bfcl-eval's, have one
        return dialogue.prompt(messages, self.tokenizer, tools.schemas(offered) if offered else ())


@dataclass(frozen=True)
class Answer:
    """What a model said, and why it ended: by itself, by Ctrl-C, or at its last token."""

    said: str  # as the model wrote it, without its reasoning
    message: dict[str, Any]  # what stays in the conversation
    stopped: bool
    cut_off: bool

    @property
    def text(self) -> str:
        """What a person reads, tool calls spelled in our own form."""
        return calls.spelled(self.message["content"], self.message.get("tool_calls", ()))


@dataclass
class Chat:
    """One conversation: what was said, who answers, which tools may run."""

    loaded: LoadedModel
    backend: Any  # backends.protocol.Backend
    config: ChatConfig
    own: dict[str, tools.Tool] = field(default_factory=dict)

    def __post_init__(self):
        self.messages = [{"role": "system", "content": self.config.system}] if self.config.system else []
        self.temp, self.tools_on = self.config.temp, self.config.tools != "off"
        self.always: set[str] = set()  # tools that run without asking
        #: the last two answers side by side, for /rate: what they answer, and each one's model and text
        self.compared: tuple[list[dict[str, Any]], tuple[str, str], tuple[str, str]] | None = None
        self.other: LoadedModel | None = None  # the model of the last /compare
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
            answer = self.answer(self.loaded, self.messages)
            self.messages.append(answer.message)
            if not self.tools_on or answer.stopped:
                return
            asked = tools.parse_calls(answer.said, self.available, dialogue.call_form(self.loaded.tokenizer))
            if not asked:
                return
            if number == self.config.max_rounds:
                terminal.note(f"[not run: the limit of --max-rounds {self.config.max_rounds} is reached]")
                self.messages += [{"role": "tool", "content": TOO_MANY} for _ in asked]
                return
            if not self._run_all(asked, answer):
                return

    def answer(self, loaded: LoadedModel, messages: list[dict], show: bool = True) -> Answer:
        """One answer, streamed with its footer where it is shown; Ctrl-C keeps what was said so far."""
        model, tokenizer = loaded.model, loaded.tokenizer
        prompt = loaded.prompt(messages, self.available if self.tools_on else {})
        room = model.config.max_positions - len(prompt)
        if room < 1:
            listed = len(loaded.prompt(messages, {})) < len(prompt)
            raise UserError(
                f"the conversation has {len(prompt):,} tokens, more than the model's context of "
                f"{model.config.max_positions:,}; start again with a shorter prompt"
                + (", or with --tools off, which leaves their listing out" if listed else "")
            )
        limit, push, began = min(self.config.max_tokens, room), tokenizer.stream_decoder(), time.monotonic()
        said: list[str] = []
        heard: list[int] = []
        lead = dialogue.lead(tokenizer)
        stream = terminal.Stream(terminal.say, *self._hidden(tokenizer)) if show else None

        def hear(token: int) -> None:
            heard.append(token)
            if token not in tokenizer.ends:
                said.append(push(token))
                if stream:
                    stream.push(said[-1] if len(said) > 1 else said[-1].removeprefix(lead))

        uniforms = np.random.default_rng([self.config.seed, self.answers]).random((1, limit))
        self.answers += 1
        stopped = False
        try:
            model.generate(
                [prompt],
                uniforms=uniforms,
                max_tokens=limit,
                temperature=self.temp,
                stop_ids=tokenizer.ends,
                pad_id=tokenizer.pad_id,
                on_token=hear,
            )
        except KeyboardInterrupt:
            if not show:
                raise
            stopped = True
        seconds = time.monotonic() - began
        if stream:
            stream.finish()
            stream.break_line()
            terminal.note(
                f"[{'stopped, ' * stopped}{len(heard)} tokens, {len(heard) / seconds:.0f} tok/s, "
                f"{self.backend.peak_memory() / 2**30:.2f} GB]"
            )
        whole = "".join(said)
        return Answer(
            dialogue.visible(whole, tokenizer),
            dialogue.message(whole, tokenizer, tools.schemas(self.available)),
            stopped,
            len(heard) == limit and heard[-1] not in tokenizer.ends,
        )

    def _hidden(self, tokenizer: AnyTokenizer) -> tuple[list[terminal.Hidden], terminal.Hidden | None]:
        """What of an answer is not shown as it streams, and which of it the answer begins inside of."""
        hidden = []
        thought = dialogue.thought(tokenizer)
        if thought:
            hidden.append(
                terminal.Hidden(thought.begin, thought.end, lambda: terminal.note("[thinking ...]"), trim=True)
            )
        form = dialogue.call_form(tokenizer)
        if self.tools_on and calls.opening(form):
            note = terminal.Hidden(calls.opening(form), calls.closing(form), lambda: terminal.note("[a tool call ...]"))
            hidden.append(note)
        return hidden, hidden[0] if thought and thought.opened else None

    # --- tools -----------------------------------------------------------------------------------------------------

    def _run_all(self, asked: list, answer: Answer) -> bool:
        """Run the calls in order and append their results; False when the user stopped one, and with it the turn."""
        stopped = False
        for index, call in enumerate(asked):
            result = STOPPED
            if isinstance(call, tools.ParseError):
                cut = answer.cut_off and index == len(asked) - 1
                result = CUT_OFF if cut else call.message
                terminal.note(f"[not run: {terminal.cleaned(result.removeprefix('error: '))}]")
                mark = calls.opening(dialogue.call_form(self.loaded.tokenizer))
                terminal.note(f"  {terminal.cleaned(answer.said[answer.said.find(mark) :])}")
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
