"""A published model's chat template: what it takes, and what it makes of a dialogue.

Templates differ in what they do with a system turn, tools, calls, results and reasoning: some write them, some refuse
them, some drop them without a word. What one does is found out by showing it short dialogues of made-up words and
looking for the words. What it cannot write is brought into a form that it can, the same in training, chat and serving;
what is lost all the same is refused, never trained on.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxrlhf.data import calls
from mlxrlhf.data.rows import messages_of
from mlxrlhf.errors import UserError

if TYPE_CHECKING:
    from mlxrlhf.data.tokenizer import PublishedTokenizer

Message = dict[str, Any]
#: the argument that switches reasoning on or off: Qwen's, SmolLM3's, GLM's
THINKING = "enable_thinking"
#: stands for today in a template that asks for the date: nothing may depend on the day. It is Llama 3.2's own default
DATE = "26 Jul 2024"
#: the names that templates know reasoning by
REASONING = ("reasoning_content", "reasoning", "thinking")
#: what stands around reasoning in an answer
_THINK = (
    ("<think>", "</think>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("[THINK]", "[/THINK]"),
)
_OPENED = re.compile(r"<think>\s*\Z")
# gpt-oss writes reasoning and answer into channels.
_FINAL = "<|channel|>final<|message|>"
_ANALYSIS = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>(.*?)(?:<\|end\|>|\Z)", re.DOTALL)


class Thought(NamedTuple):
    """The marks around reasoning. opened: a prompt ends behind the first, and the model begins inside."""

    begin: str
    end: str
    opened: bool


class ChatTemplate:
    """One template with its arguments, fixed: the same dialogue is written the same on every day.

    library: the tokenizer as transformers has it.
    """

    def __init__(self, tokenizer: PublishedTokenizer, library: Any, args: Mapping[str, Any]):
        self.tokenizer, self._library = tokenizer, library
        written = library.chat_template
        self.source: str = written if isinstance(written, str) else "\n".join(written.values())
        self.args = _arguments(self.source, args, str(tokenizer.folder))
        self._date = _date(self.args.get("date_string", DATE))
        self._lost: dict[tuple, str] = {}

    # --- ids -------------------------------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict] = ()) -> list[int]:
        """Ids up to where the assistant answers, with one begin token where the model wants one."""
        turns, _, tools = self._fitting(messages, None, tools)
        ids = self.tokenizer.encode_template(self._write(turns, tools, generation=True))
        start = self.tokenizer.start_ids
        return ids if ids[: len(start)] == start else [*start, *ids]

    def answer(self, messages: Sequence[Message], reply: Message, tools: Sequence[dict] = ()) -> list[int]:
        """Ids of the assistant's turn behind that prompt, as the template writes it, up to and with its end."""
        turns, said, tools = self._fitting(messages, reply, tools)
        assert said is not None
        start, text = self._difference(turns, said, tools)
        whole, before = self.tokenizer.encode_template(start + text), self.tokenizer.encode_template(start)
        # Where the two texts would share a token, the model still begins with its own.
        ids = whole[len(before) :] if whole[: len(before)] == before else self.tokenizer.encode_after(text)
        for at, token in enumerate(ids):
            if token in self.tokenizer.ends:
                return ids[: at + 1]
        return [*ids, *self._closing(bool(said.get("tool_calls")))]

    def message(self, text: str, tools: Sequence[dict] = ()) -> Message:
        """What the model said, its end left out, as a message: content, and reasoning and calls where there are any."""
        reasoning, content = self.parted(text)
        message: Message = {"role": "assistant", "content": content}
        if reasoning:
            message["reasoning_content"] = reasoning
        visible, written = calls.read(content, self.form, tools)
        if written and self.writes_calls and not any(isinstance(call, calls.Malformed) for call in written):
            message["content"] = visible.strip()
            message["tool_calls"] = [_as_openai(call) for call in written if not isinstance(call, calls.Malformed)]
        return message

    def parted(self, text: str) -> tuple[str, str]:
        """The reasoning of what the model said, and the rest."""
        reasoning, content = split_reasoning(text, self.opens)
        return reasoning, content.removeprefix(self.lead)

    # --- dialogues in the form that this template takes ------------------------------------------------------------

    def _fitting(
        self, messages: Sequence[Message], reply: Message | None, tools: Sequence[dict]
    ) -> tuple[list[Message], Message | None, Sequence[dict]]:
        """A dialogue, what is said next and the tools for this template's own list, so that it loses none of it.

        Raises UserError where that cannot be had.
        """
        given = messages_of([*messages, *([] if reply is None else [reply])], "the dialogue")
        turns = _numbered([self._turn(message) for message in given], nine=self._nine)
        said = turns.pop() if reply is not None else None
        if not self.takes_results:
            turns = _results_as_users(turns)
        if tools and not self.takes_tools:
            turns, tools = with_tools(turns, tools, explained=True), ()
        forms = [turns]
        if any(turn["role"] == "system" for turn in turns):
            joined = _system_as_user(turns)
            forms = [turns, joined] if self.takes_system else [joined]  # some write it in some places only
        problems = []
        for form in forms:
            problem = self._problem(form, said, tools)
            if not problem:
                if form is not turns:
                    self._say_once("has no place for a system turn here: its text joins the user's turn")
                return form, said, tools
            problems.append(problem)
        raise UserError(f"the chat template of {self.tokenizer.folder} {problems[0]}")

    def _turn(self, message: Message) -> Message:
        """One message as this template takes it: reasoning and calls where it looks for them."""
        turn: Message = {key: _hidden(value, self.tokenizer) for key, value in message.items()}
        if turn["role"] != "assistant":
            return turn
        given = [turn.pop(name) for name in REASONING if name in turn]
        reasoning, content = split_reasoning(turn["content"])
        reasoning = next((text for text in given if text), reasoning)
        own = self.writes_calls or self.takes_tools
        if own and not turn.get("tool_calls"):
            # Our own dialogues spell their calls: here they become the model's own.
            visible, written = calls.read(content)
            if written and not any(isinstance(call, calls.Malformed) for call in written):
                content = visible.strip()
                turn["tool_calls"] = [_as_openai(call) for call in written if not isinstance(call, calls.Malformed)]
        if turn.get("tool_calls") and not self.writes_calls and self.form in calls.SPELLED:
            content = calls.spelled(content, turn.pop("tool_calls"), self.form)
        if own and not self.writes_calls:  # its calls stand in the content, and their mark is a token
            mark = calls.opening(self.form)
            content = content.replace(self.tokenizer.hidden(mark), mark)
        if turn.get("tool_calls") and self._arguments_as_text:
            turn["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
                for call in turn["tool_calls"]
            ]
        if reasoning and self.args.get(THINKING) is False:
            self._say_once("is used without thinking, so reasoning in the data is left out (see --template-args)")
        elif reasoning and self._reasoning_apart:
            turn |= dict.fromkeys(REASONING, reasoning)
        elif reasoning:
            content = f"<think>\n{reasoning}\n</think>\n\n{content}"
        return {**turn, "content": content}

    def _difference(self, turns: list[Message], reply: Message, tools: Sequence[dict]) -> tuple[str, str]:
        """A prompt's text and what the template writes behind it for a reply, to the end of the text."""
        for context in _contexts(turns):
            start = self._write(context, tools, generation=True)
            whole = self._write([*context, reply], tools, generation=False)
            if whole.startswith(start):
                return start, whole[len(start) :]
            opened = _OPENED.search(start)
            if opened and whole.startswith(start[: opened.start()]):
                # The prompt begins a block of reasoning that the template leaves out of finished turns.
                reasoning = str(reply.get(REASONING[0], ""))
                content = whole[opened.start() :]
                if not reasoning:
                    reasoning, content = split_reasoning(content)
                return start, f"{reasoning}\n</think>\n\n{content}"
        raise UserError(
            f"the chat template of {self.tokenizer.folder} writes an answer in another way than its prompt begins it, "
            "so it cannot be told what the model should say"
        )

    # --- what the template writes ----------------------------------------------------------------------------------

    def _write(self, turns: Sequence[Message], tools: Sequence[dict], *, generation: bool) -> str:
        """The text of a dialogue. Raises UserError when the template refuses it."""
        from jinja2 import TemplateError

        offered = list(tools) or None
        try:
            source = self._library.get_chat_template(tools=offered)
            return self._library.apply_chat_template(
                list(turns),
                chat_template=_dated(source, self._date),
                tools=offered,
                tokenize=False,
                add_generation_prompt=generation,
                **self.args,
            )
        except (TemplateError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise UserError(f"the chat template of {self.tokenizer.folder} refuses this dialogue ({error})") from None

    def _shows(self, word: str, turns: Sequence[Message], *, generation: bool = True) -> bool:
        try:
            return word in self._write(turns, (), generation=generation)
        except UserError:
            return False

    @functools.cached_property
    def takes_system(self) -> bool:
        """Whether it writes a system turn."""
        return self._shows("zqsystem", [{"role": "system", "content": "zqsystem"}, _USER])

    @functools.cached_property
    def takes_tools(self) -> bool:
        """Whether it lists tools by itself."""
        try:
            return "zqtool" in self._write([_USER], [_TOOL], generation=True)
        except UserError:
            return False

    @functools.cached_property
    def writes_calls(self) -> bool:
        """Whether it writes the calls of an assistant's turn."""
        return self._call_arguments is not None

    @property
    def form(self) -> str:
        """In which of `calls`' forms the model is told to write its calls: its maker's, or ours where it has none."""
        return calls.form_of(self.source) if self.writes_calls or self.takes_tools else "json"

    @property
    def _arguments_as_text(self) -> bool:
        return self._call_arguments == "text"

    @functools.cached_property
    def _call_arguments(self) -> str | None:
        """In which form it takes a call's arguments: as an object, as JSON text, or not at all."""
        for form, arguments in (("object", {"zqkey": "zqvalue"}), ("text", '{"zqkey": "zqvalue"}')):
            turns = [_USER, _calling(arguments), _RESULT]
            if self._shows("zqvalue", turns) and self._shows("zqtool", turns):
                return form
            if self._shows("zqvalue", turns[:2], generation=False):
                return form
        return None

    @functools.cached_property
    def takes_results(self) -> bool:
        """Whether it writes a tool's turn."""
        arguments: Any = '{"zqkey": "zqvalue"}' if self._arguments_as_text else {"zqkey": "zqvalue"}
        said = _calling(arguments) if self.writes_calls else {"role": "assistant", "content": "zqsaid"}
        return self._shows("zqresult", [_USER, said, _RESULT])

    @functools.cached_property
    def _reasoning_apart(self) -> bool:
        """Whether it looks for reasoning beside the content; otherwise it stands in it."""
        reply = {"role": "assistant", "content": "zqsaid", **dict.fromkeys(REASONING, "zqthought")}
        return self._shows("zqthought", [_USER, reply], generation=False) or self.opens

    @functools.cached_property
    def opens(self) -> bool:
        """Whether a prompt ends inside a block of reasoning, which the model goes on with."""
        try:
            return bool(_OPENED.search(self._write([_USER], (), generation=True)))
        except UserError:
            return False

    @functools.cached_property
    def lead(self) -> str:
        """White space that it writes before an answer's first word: no part of what was answered."""
        try:
            said = self._difference([_USER], {"role": "assistant", "content": "zqsaid"}, ())[1]
        except UserError:
            return ""
        lead = split_reasoning(said.partition("zqsaid")[0], self.opens)[1]
        return lead if not lead.strip() else ""

    @functools.cached_property
    def thought(self) -> Thought:
        """What stands around the model's reasoning; any model may have learned the commonest marks."""
        marks = next((m for m in _THINK if m[0] in self.source or m[0] in self.tokenizer.added), _THINK[0])
        return Thought(*marks, self.opens)

    @functools.cached_property
    def _nine(self) -> bool:
        return bool(re.search(r"length\s*!=\s*9", self.source))  # Mistral's call ids

    # --- ends ------------------------------------------------------------------------------------------------------

    def ends(self, known: set[int]) -> set[int]:
        """The ids with which it ends an answer and one that calls a tool. known: ends from elsewhere."""
        plain = self._ending(False, known)
        return plain | (self._ending(True, known | plain) if self.writes_calls else set())

    def _ending(self, called: bool, known: set[int]) -> set[int]:
        reply = _calling('{"zqkey": "zqvalue"}' if self._arguments_as_text else {"zqkey": "zqvalue"}, "")
        word = "zqvalue"
        if not called:
            reply, word = {"role": "assistant", "content": "zqsaid"}, "zqsaid"
        try:
            text = self._difference([_USER], reply, ())[1]
        except UserError:
            return set()
        behind = self.tokenizer.encode_template(text[text.rfind(word) + len(word) :])
        marks = set((self.tokenizer.specials if called else self.tokenizer.added).values())
        ending = [token for token in behind if token in marks]
        if known & set(ending):
            return {token for token in ending if token in known}
        following = [token for token in self._following(called) if token in marks][:1]
        if called:  # markers of the call itself stand before its end
            return set(following) if set(following) & known else set(ending[-1:])
        return set((ending or following)[:1])

    def _following(self, called: bool) -> list[int]:
        """Ids of what it writes behind a finished answer when the dialogue goes on."""
        arguments: Any = '{"zqkey": "zqvalue"}' if self._arguments_as_text else {"zqkey": "zqvalue"}
        reply: Message = _calling(arguments) if called else {"role": "assistant", "content": "zqsaid"}
        after = _RESULT if called else {"role": "user", "content": "zqnext"}
        try:
            whole = self._write([_USER, reply], (), generation=False)
            longer = self._write([_USER, reply, after], (), generation=False)
        except UserError:
            return []
        return self.tokenizer.encode_template(longer[len(whole) :]) if longer.startswith(whole) else []

    def _closing(self, called: bool) -> list[int]:
        """Ids that end an answer for which the template writes no end: those up to the next turn's first end."""
        ids = self._following(called)
        for at, token in enumerate(ids):
            if token in self.tokenizer.ends:
                return ids[: at + 1]
        return [self.tokenizer.end_id]

    # --- what is lost ----------------------------------------------------------------------------------------------

    def _problem(self, turns: Sequence[Message], reply: Message | None, tools: Sequence[dict]) -> str:
        """What the template does not write of a dialogue, as a part of a sentence; "" when all of it is there.

        Every dialogue of the same roles, with calls in the same places, has the same answer: it is asked once, with a
        word of its own for every part.
        """
        key = (*map(_shape, turns), reply and _shape(reply), bool(tools))
        if key not in self._lost:
            try:
                self._lost[key] = self._missing(turns, reply, tools)
            except UserError as error:
                self._lost[key] = str(error).partition(f"{self.tokenizer.folder} ")[2]
        return self._lost[key]

    def _missing(self, turns: Sequence[Message], reply: Message | None, tools: Sequence[dict]) -> str:
        words = [_worded(turn, f"zq{number}q") for number, turn in enumerate(turns)]
        text = self._write(words, tools, generation=True)
        for number, turn in enumerate(turns):
            if lost := _absent(turn, f"zq{number}q", text):
                return (
                    f"drops the {lost} of message {number + 1} (the {turn['role']}'s), so a model would not see it; "
                    "leave the row out, or give another template with --chat-template"
                )
        if reply is not None:
            said = self._difference(words, _worded(reply, "zqreply"), tools)[1]
            if lost := _absent(reply, "zqreply", said, reasoning=True):
                spelled = "; write calls into the content, in the model's own form" if "call" in lost else ""
                return f"drops the {lost} of the answer, so nothing would be learned of it{spelled}"
        return ""

    def _say_once(self, what: str) -> None:
        line = f"the chat template of {self.tokenizer.folder} {what}"
        if line not in _said:
            _said.add(line)
            print(line, file=sys.stderr)


#: what was said to the user in this process: a template's habits need no second mention
_said: set[str] = set()

# --- probes --------------------------------------------------------------------------------------------------------

_USER: Message = {"role": "user", "content": "zquser"}
_RESULT: Message = {"role": "tool", "content": "zqresult", "name": "zqtool", "tool_call_id": "zqcall001"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "zqtool",
        "description": "zqdescription",
        "parameters": {
            "type": "object",
            "properties": {"zqkey": {"type": "string", "description": "zqargument"}},
            "required": ["zqkey"],
        },
    },
}


def _calling(arguments: Any, content: str = "") -> Message:
    call = {"id": "zqcall001", "type": "function", "function": {"name": "zqtool", "arguments": arguments}}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def _shape(turn: Message) -> tuple:
    """What decides whether a template writes a turn: its role and which parts it has."""
    return (
        turn["role"],
        bool(turn["content"].strip()),
        REASONING[0] in turn,
        tuple(bool(call["function"]["arguments"]) for call in turn.get("tool_calls", ())),
    )


def _worded(turn: Message, word: str) -> Message:
    """The turn with a word of its own in the place of every part."""
    made = {key: value for key, value in turn.items() if key in ("role", "tool_call_id", "name")}
    made["content"] = f"{word}content" if turn["content"].strip() else ""
    if REASONING[0] in turn:
        made |= dict.fromkeys(REASONING, f"{word}thought")
    if turn.get("tool_calls"):
        made["tool_calls"] = []
        for number, call in enumerate(turn["tool_calls"]):
            given = call["function"]["arguments"]
            arguments: Any = {"key": f"{word}value{number}"} if given else given
            if isinstance(given, str):
                arguments = json.dumps(arguments)
            function = {"name": f"{word}name{number}", "arguments": arguments}
            made["tool_calls"].append({**call, "function": function})
    return made


def _absent(turn: Message, word: str, text: str, *, reasoning: bool = False) -> str:
    """The part of a worded turn that a text lacks, or ""."""
    if turn["content"].strip() and f"{word}content" not in text:
        return "content"
    if reasoning and REASONING[0] in turn and f"{word}thought" not in text:
        return "reasoning"
    for number, call in enumerate(turn.get("tool_calls", ())):
        if f"{word}name{number}" not in text or (call["function"]["arguments"] and f"{word}value{number}" not in text):
            return "tool call"
    return ""


# --- arguments -----------------------------------------------------------------------------------------------------


def _arguments(source: str, given: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The arguments in use: what was given, thinking off and a fixed date where nothing was."""
    dated = "strftime_now" in source
    for name in given:
        if not re.search(rf"\b{re.escape(name)}\b", source) and not (dated and name == "date_string"):
            raise UserError(f"--template-args: the chat template of {folder} has no argument {name!r}")
    args = dict(given)
    if re.search(rf"\b{THINKING}\b", source):
        args.setdefault(THINKING, False)
    if dated or re.search(r"\bdate_string\b", source):
        args.setdefault("date_string", DATE)
    return args


def _date(text: Any) -> datetime:
    for form in ("%d %b %Y", "%Y-%m-%d", "%d %B %Y", "%B %d, %Y"):
        try:
            return datetime.strptime(str(text), form)
        except ValueError:
            continue
    raise UserError(f'--template-args: date_string is {text!r}; give a date such as "{DATE}" or "2024-07-26"')


def _dated(source: str, date: datetime) -> str:
    """A template that is told the date in the place of asking for today's."""
    return re.sub(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""", lambda asked: json.dumps(date.strftime(asked[2])), source)


# --- messages ------------------------------------------------------------------------------------------------------


def _as_openai(call: calls.Call) -> Message:
    made = {"type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
    return {"id": call["id"], **made} if "id" in call else made


def _numbered(messages: Sequence[Message], *, nine: bool) -> list[Message]:
    """The dialogue with an id for every call that has none, and each result with the id and the name of its call.

    nine: ids have nine characters, Mistral's rule, whatever they were.
    """
    turns, waiting, count = [], [], 0
    for message in messages:
        message = dict(message)
        if message.get("tool_calls"):
            made = []
            for call in message["tool_calls"]:
                given = call.get("id", "")
                own = given if given and (not nine or re.fullmatch(r"[a-zA-Z0-9]{9}", given)) else f"call{count:05}"
                made.append({**call, "id": own})
                waiting.append((given, own, call["function"]["name"]))
                count += 1
            message["tool_calls"] = made
        elif message["role"] == "tool" and waiting:
            asked = message.get("tool_call_id")
            at = next((i for i, (given, _, _) in enumerate(waiting) if given and given == asked), 0)
            _, own, name = waiting.pop(at)
            message = {"name": name, **message, "tool_call_id": own}
        turns.append(message)
    return turns


def with_tools(messages: Sequence[Message], tools: Sequence[dict], *, explained: bool = False) -> list[Message]:
    """Tool schemas join the system turn, as in our own chat template.

    `explained` also says how to call one, for a model that was not trained on such dialogues.
    """
    listing = json.dumps(list(tools), ensure_ascii=False)
    if explained:
        listing = (
            f"You may call these tools:\n{listing}\nTo call one, answer {calls.CALL}"
            f'{{"name": ..., "arguments": {{...}}}}{calls.CALL_END} and wait for its result.'
        )
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": messages[0]["content"] + "\n" + listing}, *messages[1:]]
    return [{"role": "system", "content": listing}, *messages]


def _results_as_users(turns: Sequence[Message]) -> list[Message]:
    """Tool results as the user's turns; those in a row and the user's own words behind them become one."""
    made: list[Message] = []
    after_result = False
    for turn in turns:
        result = turn["role"] == "tool"
        if result:
            turn = {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}
        if after_result and turn["role"] == "user":
            turn = {"role": "user", "content": f"{made.pop()['content']}\n{turn['content']}"}
        made.append(turn)
        after_result = result
    return made


def _system_as_user(turns: Sequence[Message]) -> list[Message]:
    """System turns at the beginning of the user's turn behind them."""
    made: list[Message] = []
    waiting = ""
    for turn in turns:
        if turn["role"] == "system":
            waiting += turn["content"] + "\n\n"
            continue
        if waiting and turn["role"] == "user":
            turn = {**turn, "content": waiting + turn["content"]}
        elif waiting:
            made.append({"role": "user", "content": waiting.rstrip("\n")})
        waiting = ""
        made.append(turn)
    return made + ([{"role": "user", "content": waiting.rstrip("\n")}] if waiting else [])


def _contexts(turns: list[Message]) -> list[list[Message]]:
    """What may stand before a reply so that a template's two texts agree: all of it, or less.

    Some write a system turn, or the tools, into the last user's turn and only while it is the last turn of all.
    """
    without = [turn for turn in turns if turn["role"] != "system"]
    last = max((i for i, turn in enumerate(without) if turn["role"] == "user"), default=0)
    return [turns, without, without[last:]]


def _hidden(value: Any, tokenizer: PublishedTokenizer) -> Any:
    """The value with every special token that its texts spell hidden: see `PublishedTokenizer.hidden`."""
    if isinstance(value, str):
        return tokenizer.hidden(value)
    if isinstance(value, Mapping):
        return {_hidden(key, tokenizer): _hidden(one, tokenizer) for key, one in value.items()}
    return [_hidden(one, tokenizer) for one in value] if isinstance(value, (list, tuple)) else value


# --- reasoning -----------------------------------------------------------------------------------------------------


def split_reasoning(text: str, opened: bool = False) -> tuple[str, str]:
    """The reasoning of an answer and the rest of it. opened: the prompt began the block.

    >>> split_reasoning("<think>\\ntwo and two\\n</think>\\n\\n4")
    ('two and two', '4')

    A block that never ends was cut off: nothing was answered.
    """
    if _FINAL in text or _ANALYSIS.search(text):
        thoughts = [mark[1] for mark in _ANALYSIS.finditer(text)]
        return "\n".join(thoughts), _ANALYSIS.sub("", text).rpartition(_FINAL)[2]
    for begin, end in _THINK:
        stripped = text.lstrip()
        if stripped.startswith(begin):
            inside = stripped[len(begin) :]
        elif begin == "<think>" and (opened or (end in text and begin not in text)):
            inside = text
        else:
            continue
        thought, mark, said = inside.partition(end)
        return thought.strip(), said.lstrip("\n") if mark else ""
    return "", text
