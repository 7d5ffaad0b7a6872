"""The law of turns: what a stage trains on is, id for id, what chat and serve show a model and what the model says.

Over the chat templates of many makers, as they ship them. What each writes was read off its template by hand, and
transformers is the oracle of the ids.
"""

import json

import makers
import pytest

from mlxrlhf.agent import api, serve, tools
from mlxrlhf.agent.chat import LoadedModel
from mlxrlhf.data import dialogue
from mlxrlhf.data.tokenizer import open_tokenizer
from mlxrlhf.errors import UserError
from mlxrlhf.preferences.encoded import encode_pair
from mlxrlhf.preferences.files import load_pairs
from mlxrlhf.preferences.pairs import Pair
from mlxrlhf.stages import sampling

ARGUMENTS = {"x": 1, "note": "a 'b' \"c\"\nd"}
CALL = {"type": "function", "function": {"name": "add", "arguments": ARGUMENTS}}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {
            "type": "object",
            "properties": {
                "x": {"type": "integer", "description": "n"},
                "note": {"type": "string", "description": "s"},
            },
            "required": ["x"],
        },
    },
}
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}]
TWO = [
    *ASKED,
    {"role": "assistant", "content": "First."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Second."},
]
CALLED = [
    *ASKED,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "7"},
    {"role": "assistant", "content": "Seven."},
]
JSON = '{"name": "add", "arguments": {"x": 1, "note": "a \'b\' \\"c\\"\\nd"}}'
OURS = f"<tool_call>{JSON}</tool_call>"
QWEN = f"<tool_call>\n{JSON}\n</tool_call><|im_end|>"

#: template -> its ends, what the model says to "One?", and what it says to call a tool
SAID = {
    "qwen2_5": ("<|endoftext|> <|im_end|>", "First.<|im_end|>", QWEN),
    "qwen3": ("<|endoftext|> <|im_end|>", "First.<|im_end|>", QWEN),
    "qwen3_5": (
        "<|endoftext|> <|im_end|>",
        "First.<|im_end|>",
        "<tool_call>\n<function=add>\n<parameter=x>\n1\n</parameter>\n<parameter=note>\na 'b' \"c\"\nd\n</parameter>\n"
        "</function>\n</tool_call><|im_end|>",
    ),
    "smollm3": ("<|im_end|>", "First.<|im_end|>", OURS + "<|im_end|>"),
    "llama3_2": (
        "<|end_of_text|> <|eom_id|> <|eot_id|>",
        "First.<|eot_id|>",
        JSON.replace("arguments", "parameters") + "<|eot_id|>",
    ),
    # Gemma 2's folder names no end but <eos>: the template says which one it is.
    "gemma2": ("<eos> <end_of_turn>", "First.<end_of_turn>", OURS + "<end_of_turn>"),
    "gemma3": ("<eos> <end_of_turn>", "First.<end_of_turn>", OURS + "<end_of_turn>"),
    "gemma4": (
        "<eos> <turn|> <|tool_response>",
        "First.<turn|>",
        '<|tool_call>call:add{note:<|"|>a \'b\' "c"\nd<|"|>,x:1}<tool_call|><|tool_response>',
    ),
    "phi3_5": ("<|endoftext|> <|assistant|> <|end|>", "First.<|end|>", OURS + "<|end|>"),
    "mistral_v1": ("</s>", " First.</s>", f" {OURS}</s>"),
    "mistral_nemo": ("</s>", "First.</s>", f'[TOOL_CALLS][{JSON[:-1]}, "id": "call00000"}}]</s>'),
    "granite3": ("<|end_of_text|>", "First.<|end_of_text|>", f"<|tool_call|>[{JSON}]<|end_of_text|>"),
    "granite4": ("<|end_of_text|>", "First.<|end_of_text|>", f"<tool_call>\n{JSON}\n</tool_call><|end_of_text|>"),
    # GLM writes no end: the next turn's first token ends an answer, a user's or that of a tool's result.
    "glm4moe": (
        "<|endoftext|> <|user|> <|observation|>",
        "\nFirst.<|user|>",
        "\n<tool_call>add\n<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n<arg_key>note</arg_key>\n"
        "<arg_value>a 'b' \"c\"\nd</arg_value>\n</tool_call><|observation|>",
    ),
    "deepseek_r1_distill": (
        "<｜end▁of▁sentence｜>",
        "\n</think>\n\nFirst.<｜end▁of▁sentence｜>",
        f"\n</think>\n\n{OURS}<｜end▁of▁sentence｜>",
    ),
    "lfm2": (
        "<|im_end|>",
        "First.<|im_end|>",
        "<|tool_call_start|>[add(x=1, note='a \\'b\\' \"c\"\\nd')]<|tool_call_end|><|im_end|>",
    ),
    "lfm2_first": ("<|im_end|>", "First.<|im_end|>", None),  # lists tools and drops calls
    "gptoss": (
        "<|call|> <|return|> <|endoftext|>",
        "<|channel|>final<|message|>First.<|return|>",
        ' to=functions.add<|channel|>commentary json<|message|>{"x": 1, "note": "a \'b\' \\"c\\"\\nd"}<|call|>',
    ),
}
#: templates that rewrite earlier turns: a dialogue of two answers is two examples
REWRITING = {"qwen3", "qwen3_5", "mistral_nemo", "deepseek_r1_distill", "gptoss"}
#: templates that list tools by themselves; the others are told by us, in the system turn
LISTING = set(SAID) - {"smollm3", "gemma2", "gemma3", "phi3_5", "mistral_v1", "deepseek_r1_distill"}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """published(template, **arguments) is the tokenizer of a model of that family."""
    folders = {}

    def make(name, args=None):
        if name not in folders:
            folders[name] = makers.write(tmp_path_factory.mktemp(name), name)
        return open_tokenizer(folders[name], args)

    return make


def stock(tokenizer, messages, **settings):
    """Ids as transformers makes them, on the day that the run has fixed."""
    source = tokenizer._tokenizer.chat_template.replace('strftime_now("%Y-%m-%d")', '"2024-07-26"')
    return tokenizer._tokenizer.apply_chat_template(
        messages, chat_template=source, return_dict=False, **tokenizer.template.args, **settings
    )


def counted(ids, mask, tokenizer):
    return tokenizer.decode([token for token, one in zip(ids, mask) if one])


# --- the law -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAID)
def test_prompts_are_those_of_transformers(published, name):
    tokenizer = published(name)
    messages = ASKED if tokenizer.template.takes_system else ASKED[1:]
    assert dialogue.prompt(messages, tokenizer) == stock(tokenizer, messages, add_generation_prompt=True)
    listed = dialogue.prompt(messages, tokenizer, [TOOL])
    if name in LISTING:
        assert listed == stock(tokenizer, messages, tools=[TOOL], add_generation_prompt=True)
    else:
        assert f"You may call these tools:\n{json.dumps([TOOL])}\nTo call one, answer" in tokenizer.decode(listed)


@pytest.mark.parametrize("name", SAID)
def test_answers_are_what_the_template_writes_up_to_their_end(published, name):
    tokenizer = published(name)
    ends, first, call = SAID[name]
    assert [tokenizer.decode([end]) for end in tokenizer.ends] == ends.split()
    assert tokenizer.decode(dialogue.answer(ASKED, "First.", tokenizer)) == first
    if call is None:
        with pytest.raises(UserError, match="drops the tool call of the answer"):
            dialogue.answer(ASKED, CALLED[2], tokenizer, [TOOL])
        return
    ids = dialogue.answer(ASKED, CALLED[2], tokenizer, [TOOL])
    assert tokenizer.decode(ids) == call and ids[-1] in tokenizer.ends
    spelled = {"role": "assistant", "content": OURS}
    assert dialogue.answer(ASKED, spelled, tokenizer, [TOOL]) == ids, "our own dialogues spell their calls"


@pytest.mark.parametrize("messages, offered", [(TWO, ()), (CALLED, [TOOL])], ids=["two answers", "a call"])
@pytest.mark.parametrize("name", SAID)
def test_every_answer_is_trained_on_once_behind_the_prompt_that_it_had(published, name, messages, offered):
    tokenizer = published(name)
    if SAID[name][2] is None and offered:
        return
    examples = dialogue.examples(messages, tokenizer, offered)
    for at in (2, 4):
        prompt = dialogue.prompt(messages[:at], tokenizer, offered)
        said = dialogue.answer(messages[:at], messages[at], tokenizer, offered)
        places = [
            mask[len(prompt) : len(prompt) + len(said)]
            for ids, mask in examples
            if ids[: len(prompt) + len(said)] == [*prompt, *said]
        ]
        assert places.count([1] * len(said)) == 1
    told = [counted(ids, mask, tokenizer) for ids, mask in examples]
    wanted = [SAID[name][2 if offered else 1], SAID[name][1].replace("First.", "Seven." if offered else "Second.")]
    if name == "deepseek_r1_distill" and offered:
        wanted[1] = "Seven.<｜end▁of▁sentence｜>"  # behind a result its prompt opens no block
    if name == "gemma4" and offered:
        wanted[1] = "Seven.<turn|>"
    assert "".join(told) == "".join(wanted), "and nothing else is"
    if not offered:
        assert len(examples) == (2 if name in REWRITING else 1)


def served_prompt(tokenizer, messages, offered=()):
    """What the server shows the model for a client's request."""
    asked = {"messages": messages, **({"tools": list(offered)} if offered else {})}
    return serve.Prompter(tokenizer).prompt(api.chat_request(asked, api.Served(("m",), 1_000, 4_096, 10, 0.0)))[1]


@pytest.mark.parametrize("name", SAID)
def test_chat_serve_rollouts_and_pairs_show_the_same(published, name, tmp_path):
    tokenizer = published(name)
    prompt = dialogue.prompt(ASKED[1:], tokenizer)
    assert LoadedModel("", None, tokenizer).prompt(ASKED[1:], {}) == prompt
    assert served_prompt(tokenizer, ASKED[1:]) == prompt
    assert sampling.encode_prompts([{"prompt": "One?"}], tokenizer) == [prompt]
    pair = encode_pair(Pair("One?", "First.", "No."), tokenizer)
    assert pair.chosen == dialogue.examples([ASKED[1], TWO[2]], tokenizer)[0][0]
    assert (pair.chosen[: pair.start], tokenizer.decode(pair.chosen[pair.start :])) == (prompt, SAID[name][1])
    assert pair.rejected[-1] == pair.chosen[-1]
    one = {"add": tools.Tool("add", "Add.", TOOL["function"]["parameters"], str)}
    assert LoadedModel("", None, tokenizer).prompt(ASKED, one) == served_prompt(tokenizer, ASKED, [TOOL])


@pytest.mark.parametrize("name", SAID)
def test_what_is_sampled_reads_as_what_was_said(published, name):
    tokenizer = published(name)
    ids = dialogue.answer(ASKED, "First.", tokenizer)
    assert dialogue.text(ids, tokenizer).strip() == "First."
    assert dialogue.said(ids, tokenizer)["content"].strip() == "First."
    if SAID[name][2] is None:
        return
    ids = dialogue.answer(ASKED, CALLED[2], tokenizer, [TOOL])
    form = dialogue.call_form(tokenizer)
    one = {"add": tools.Tool("add", "Add.", TOOL["function"]["parameters"], str)}
    asked = [{"name": "add", "arguments": ARGUMENTS}]
    assert tools.parse_calls(dialogue.text(ids, tokenizer), one, form) == asked
    message = dialogue.said(ids, tokenizer, [TOOL])
    assert dialogue.answer(ASKED, message, tokenizer, [TOOL]) == ids, "and is said the same again"


@pytest.mark.parametrize("name", SAID)
def test_a_user_cannot_write_a_special_token(published, name):
    tokenizer = published(name)
    specials = [text for text in tokenizer.specials if text]
    hostile = f"a{specials[-1]} b {''.join(specials)} c"
    plain, asked = (dialogue.prompt([{"role": "user", "content": text}], tokenizer) for text in ("?", hostile))
    marks = set(tokenizer.specials.values())
    assert [token for token in asked if token in marks] == [token for token in plain if token in marks]
    assert hostile in tokenizer.decode(asked)
    ids, mask = dialogue.examples([*ASKED[1:], {"role": "assistant", "content": hostile}], tokenizer)[0]
    assert hostile in counted(ids, mask, tokenizer)
    assert sum(token in tokenizer.ends for token, one in zip(ids, mask) if one) == 1, "its end"


# --- ends ----------------------------------------------------------------------------------------------------------


def test_smollm2_with_the_end_of_a_base_model_stops_where_its_turn_ends(tmp_path):
    """As in the wild: tokenizer_config.json names <|endoftext|>, generation_config.json both."""
    chatml = makers.Maker(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|endoftext|>", ("<|endoftext|>", "<|im_end|>")
    )
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for maker in (chatml, chatml._replace(ends=())):  # the template alone says it too
        tokenizer = open_tokenizer(makers.write(tmp_path / str(len(maker.ends)), "", maker, template=template))
        assert [tokenizer.decode([end]) for end in tokenizer.ends] == ["<|endoftext|>", "<|im_end|>"]
        assert tokenizer.decode(dialogue.answer(ASKED, "Yes.", tokenizer)) == "Yes.<|im_end|>"
        assert dialogue.text(dialogue.answer(ASKED, "Yes.", tokenizer), tokenizer) == "Yes."


def test_a_checkpoint_tells_other_libraries_where_its_turns_end(published, tmp_path):
    tokenizer = published("gemma2")
    tokenizer.save_turns(tmp_path)
    ends = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    assert [tokenizer.decode([end]) for end in ends] == ["<eos>", "<end_of_turn>"]


# --- thinking ------------------------------------------------------------------------------------------------------

THOUGHT = {"role": "assistant", "content": "Four.", "reasoning_content": "two and two"}
INLINE = {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\nFour."}


@pytest.mark.parametrize(
    "name, args, said",
    [
        ("qwen3", {"enable_thinking": True}, "<think>\ntwo and two\n</think>\n\nFour.<|im_end|>"),
        ("qwen3_5", {"enable_thinking": True}, "two and two\n</think>\n\nFour.<|im_end|>"),
        ("smollm3", {"enable_thinking": True}, "<think>\ntwo and two\n</think>\n\nFour.<|im_end|>"),
        ("glm4moe", {"enable_thinking": True}, "\n<think>two and two</think>\nFour.<|user|>"),
        ("gemma4", {"enable_thinking": True}, "<|channel>thought\ntwo and two\n<channel|>Four.<turn|>"),
        ("deepseek_r1_distill", {}, "two and two\n</think>\n\nFour.<｜end▁of▁sentence｜>"),
        (
            "gptoss",
            {},
            "<|channel|>analysis<|message|>two and two<|end|><|start|>assistant"
            "<|channel|>final<|message|>Four.<|return|>",
        ),
        ("llama3_2", {}, "<think>\ntwo and two\n</think>\n\nFour.<|eot_id|>"),
    ],
)
def test_reasoning_is_said_as_the_model_says_it_and_kept_from_who_grades(published, name, args, said):
    tokenizer = published(name, args)
    ids = dialogue.answer(ASKED, THOUGHT, tokenizer)
    assert tokenizer.decode(ids) == said
    assert dialogue.answer(ASKED, INLINE, tokenizer) == ids
    assert dialogue.text(ids, tokenizer) == "Four." and "two and two" in dialogue.text(ids, tokenizer, reasoning=True)
    message = dialogue.said(ids, tokenizer)
    assert message["content"] == "Four." and message["reasoning_content"].strip() == "two and two"
    cut = ids[: len(ids) // 2]
    assert "two" not in dialogue.text(cut, tokenizer), "cut off while it was thinking: nothing is said yet"


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5", "smollm3", "glm4moe"])
def test_thinking_is_off_unless_asked_for_and_the_empty_block_is_read_not_said(published, name, capsys):
    tokenizer = published(name)
    assert tokenizer.template.args == {"enable_thinking": False}
    prompt = dialogue.prompt(ASKED, tokenizer)
    assert tokenizer.decode(prompt).split("<think>")[1].split("</think>")[0].strip() == ""
    for reply in (THOUGHT, INLINE):
        ids = dialogue.answer(ASKED, reply, tokenizer)
        assert tokenizer.decode(ids) == SAID[name][1].replace("First.", "Four.")
    with pytest.raises(UserError, match="--template-args: the chat template of .* has no argument 'thinkin'"):
        published(name, {"thinkin": 1}).template  # noqa: B018


def test_a_thinking_model_gets_one_example_for_each_answer(published):
    tokenizer = published("qwen3", {"enable_thinking": True})
    talk = [*ASKED, THOUGHT, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    first, second = dialogue.examples(talk, tokenizer)
    start = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(first[0]) == start + "<think>\ntwo and two\n</think>\n\nFour.<|im_end|>"
    assert tokenizer.decode(second[0]) == (
        start + "Four.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\nYes.<|im_end|>"
    )
    assert counted(*second, tokenizer) == "<think>\n\n</think>\n\nYes.<|im_end|>"


# --- what a template cannot write ----------------------------------------------------------------------------------


def test_a_system_turn_joins_the_users_and_is_said_once(published, tmp_path, capfd):
    tokenizer = open_tokenizer(makers.write(tmp_path, "gemma2"))
    for _ in range(3):
        text = tokenizer.decode(dialogue.prompt(ASKED, tokenizer))
    assert text == "<bos><start_of_turn>user\nBe brief.\n\nOne?<end_of_turn>\n<start_of_turn>model\n"
    assert capfd.readouterr().err.count("no place for a system turn") == 1


def test_results_join_a_users_turn_where_there_is_no_tools_turn(published):
    tokenizer = published("gemma3")
    more = [*CALLED[:4], {"role": "tool", "content": "8"}, {"role": "user", "content": "And?"}]
    assert tokenizer.decode(dialogue.prompt(more, tokenizer)).endswith(
        "</tool_call><end_of_turn>\n<start_of_turn>user\n<tool_response>\n7\n</tool_response>\n<tool_response>\n8\n"
        "</tool_response>\nAnd?<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_row_that_loses_a_part_is_refused_by_file_and_line(published, tmp_path):
    from mlxrlhf.data.rows import load_dialogues

    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": TWO}) + "\n" + json.dumps({"messages": CALLED, "tools": [TOOL]}) + "\n")
    with pytest.raises(UserError, match=r"rows.jsonl:2: the chat template of .* drops the tool call of the answer"):
        dialogue.encode_examples(load_dialogues(rows), published("lfm2_first"))
    pairs = tmp_path / "pairs.jsonl"
    chosen, rejected = [CALLED[2]], [{"role": "assistant", "content": "No."}]
    pairs.write_text(json.dumps({"prompt": "One?", "chosen": chosen, "rejected": rejected, "tools": [TOOL]}))
    (pair,) = load_pairs(pairs)
    with pytest.raises(UserError, match=r"pairs.jsonl:1: the chat template of .* drops the tool call of the answer"):
        encode_pair(pair, published("lfm2_first"))
    tokenizer = published("qwen3")
    encoded = encode_pair(pair, tokenizer)
    assert tokenizer.decode(encoded.chosen[encoded.start :]) == QWEN, "elsewhere calls of pairs are kept"
    assert "# Tools" in tokenizer.decode(encoded.chosen)


@pytest.mark.parametrize(
    "template, lost",
    [
        (
            "{% for m in messages %}{% if m.role != 'assistant' %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}",
            "answer",
        ),
        ("{% for m in messages[-2:] %}[INST]{{ m.content }}[/INST]{% endfor %}", "content of message 1"),
    ],
)
def test_a_template_that_drops_turns_is_never_trained_on(tmp_path, template, lost):
    tokenizer = open_tokenizer(makers.write(tmp_path, "mistral_v1", template=template))
    with pytest.raises(UserError, match=lost):
        dialogue.examples(TWO[1:], tokenizer)


def test_newer_roles_parts_and_null_content(published):
    tokenizer = published("qwen2_5")
    newer = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        ASKED[1],
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": json.dumps(ARGUMENTS)}]},
        {"role": "function", "name": "add", "content": "7"},
    ]
    assert dialogue.prompt(newer, tokenizer, [TOOL]) == dialogue.prompt(CALLED[:4], tokenizer, [TOOL])
    with pytest.raises(UserError, match="must be text"):
        dialogue.prompt([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], tokenizer)


# --- dates, begin tokens, missing rows, base models -----------------------------------------------------------------


def test_the_date_is_the_runs_and_not_todays(published):
    text = published("llama3_2").decode(dialogue.prompt(ASKED, published("llama3_2")))
    assert "Today Date: 26 Jul 2024" in text
    for name, wanted in (("llama3_2", "Today Date: 05 Mar 2025"), ("gptoss", "Current date: 2025-03-05")):
        tokenizer = published(name, {"date_string": "05 Mar 2025"})
        assert wanted in tokenizer.decode(dialogue.prompt(ASKED, tokenizer))
    tokenizer = published("granite3", {"date_string": "2025-03-05"})
    assert "Today's Date: March 05, 2025" in tokenizer.decode(dialogue.prompt(ASKED[1:], tokenizer))
    with pytest.raises(UserError, match="date_string is 'soon'"):
        published("llama3_2", {"date_string": "soon"}).template  # noqa: B018


def test_one_begin_token_on_plain_text_and_in_dialogues(published, tmp_path):
    tokenizer = published("gemma3")
    begin = tokenizer.specials["<bos>"]
    assert tokenizer.start_ids == [begin] and published("qwen3").start_ids == published("phi3_5").start_ids == []
    ((ids, _),) = dialogue.encode_examples([{"text": "plain"}], tokenizer)
    assert ids == [begin, *tokenizer.encode("plain"), tokenizer.end_id]
    assert dialogue.prompt(ASKED, tokenizer).count(begin) == 1
    silent = "{% for m in messages %}<start_of_turn>{{ m.content }}<end_of_turn>{% endfor %}"
    other = open_tokenizer(makers.write(tmp_path, "gemma3", template=silent))
    assert dialogue.prompt(ASKED, other)[0] == begin


def test_a_token_without_a_row_in_the_embedding_is_refused_where_it_is_used(tmp_path):
    folder = makers.write(tmp_path, "gemma3", makers.MAKERS["gemma3"]._replace(added=("<image_soft_token>",)))
    size = len(open_tokenizer(folder)._tokenizer)
    (folder / "config.json").write_text(json.dumps({"vocab_size": size - 1}))
    tokenizer = open_tokenizer(folder)
    assert dialogue.prompt(ASKED, tokenizer)
    with pytest.raises(UserError, match=r"<image_soft_token>.*has no row in the model's embedding of 5"):
        dialogue.prompt([{"role": "user", "content": "see <image_soft_token>"}], tokenizer)


def test_a_base_model_does_without_a_template_except_for_dialogues(tmp_path):
    folder = makers.write(tmp_path / "base", "qwen3")
    (folder / "chat_template.jinja").unlink()
    base = open_tokenizer(folder)
    assert base.ends and base.encode("text") and dialogue.text([base.end_id], base) == ""
    with pytest.raises(UserError, match="has no chat template.*--chat-template FILE"):
        dialogue.prompt(ASKED, base)
    given = open_tokenizer(folder, chat_template=str(makers.TEMPLATES / "qwen3.jinja"))
    (tmp_path / "out").mkdir()
    given.save_turns(tmp_path / "out")
    for file in folder.iterdir():
        if not (tmp_path / "out" / file.name).exists():
            (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    again = open_tokenizer(tmp_path / "out")
    assert dialogue.prompt(ASKED, again) == dialogue.prompt(ASKED, given)


def test_arguments_are_kept_with_the_checkpoint_and_a_given_one_goes_first(tmp_path):
    folder = makers.write(tmp_path, "qwen3")
    open_tokenizer(folder, {"enable_thinking": True}).save_turns(folder)
    assert json.loads((folder / "template_args.json").read_text()) == {"enable_thinking": True}
    assert open_tokenizer(folder).template.args == {"enable_thinking": True}
    assert open_tokenizer(folder, {"enable_thinking": False}).template.args == {"enable_thinking": False}


def test_a_reward_model_of_other_turns_is_refused_by_name(published, tmp_path):
    from mlxrlhf.rewards.model import RewardModel

    off, on = published("qwen3"), published("qwen3", {"enable_thinking": True})
    described = {"base": str(tmp_path), "base_digest": "0", "tokenizer": off.fingerprint, "turns": off.turns}
    described |= {"hidden_size": 4, "normaliser": {"mean": 0.0, "std": 1.0}, "lora_rank": 0}
    (tmp_path / "reward.json").write_text(json.dumps(described))
    assert RewardModel.open(tmp_path, off).hidden_size == 4
    with pytest.raises(UserError, match="of other --template-args"):
        RewardModel.open(tmp_path, on)


def test_a_sentencepiece_vocabulary_puts_a_space_before_the_first_word_only(tmp_path):
    """Llama 2's and Mistral's: an answer that was encoded alone would begin with one space too many."""
    tokenizer = open_tokenizer(makers.write(tmp_path, "mistral_nemo", sentencepiece=True))
    whole = stock(tokenizer, TWO[1:])
    ((ids, mask),) = dialogue.examples(TWO[1:], tokenizer)
    assert ids == whole and counted(ids, mask, tokenizer) == "First.</s>Second.</s>"
    hostile = [{"role": "user", "content": "x</s>y"}]
    ids = dialogue.prompt(hostile, tokenizer)
    assert tokenizer._tokenizer.convert_ids_to_tokens(ids) == ["<s>", "[INST]", *"x</s>y", "[/INST]"]
