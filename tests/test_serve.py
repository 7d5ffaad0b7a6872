"""OpenAI's own client against `mlxrlhf serve`: a real server, and a model trained until it calls a tool."""

import asyncio
import collections
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import openai
import pytest
import tokenizers as tokenizers_library
from helpers import mlxrlhf_process
from server_attacks import END, FIELDS, PAGE, START, TESTED, table

from mlxrlhf import backends
from mlxrlhf.agent import api, serve
from mlxrlhf.algorithms import losses
from mlxrlhf.config import ExportConfig, ModelConfig, ServeConfig
from mlxrlhf.data import corpora, dialogue, rows
from mlxrlhf.data import tokenizer as tokenizers
from mlxrlhf.errors import UserError
from mlxrlhf.models import folders, published
from mlxrlhf.stages import export

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "execute_python",
            "description": "Run code",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        },
    }
]
ASKED = [{"role": "user", "content": "What is 17 * 23?"}]
CALL = {
    "role": "assistant",
    "content": "I will run it. ",
    "tool_calls": [
        {"type": "function", "function": {"name": "execute_python", "arguments": '{"code": "print(17 * 23)"}'}}
    ],
}
RESULT = {"role": "tool", "content": "391\n"}
ANSWER = {"role": "assistant", "content": "It is 391. Naïve café 🦜."}
PLAIN = [{"role": "user", "content": "Say hello"}, {"role": "assistant", "content": "hello there, parrot 🦜"}]


@pytest.fixture(scope="module")
def served_folder(tmp_path_factory):
    """A small checkpoint overfitted on two dialogues: one with a tool call, its result and the answer."""
    root = tmp_path_factory.mktemp("serve")
    texts = [text for _, (_, text) in zip(range(30), corpora.stdlib())]
    tokenizers.train([*texts, json.dumps(TOOLS)], 800, root / "t")
    tokenizer = tokenizers.Tokenizer(root / "t")
    (root / "rows.jsonl").write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in ({"messages": [*ASKED, CALL, RESULT, ANSWER], "tools": TOOLS}, {"messages": PLAIN})
        )
    )
    examples = dialogue.encode_examples(rows.load_dialogues(root / "rows.jsonl"), tokenizer)
    model = backends.load("mlx").Model(ModelConfig(800, 96, 2, 3, 1, 192, head_dim=32), seed=0)
    batches = [
        {
            "tokens": np.array([ids], np.int32),
            "start": 1,
            "mask": np.array([mask[1:]], np.float32),
            "total": np.float32(sum(sum(mask) for _, mask in examples)),
        }
        for ids, mask in examples
    ]
    for _ in range(300):
        loss = model.step(losses.language_modelling, batches, want=("logp",), learning_rate=5e-3)["loss"]
        if loss < 0.01:
            break
    assert loss < 0.01
    (root / "weights" / "nano" / "rlhf").mkdir(parents=True)
    folders.save_checkpoint(model, root / "weights" / "nano" / "rlhf", tokenizer)
    return root


@contextlib.contextmanager
def server(root, *arguments):
    """`mlxrlhf serve` on a free port, with an empty hub cache; yields (base address, process)."""
    environment = {
        **os.environ,
        "HF_HOME": str(root / "no-such-cache"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "OPENBLAS_NUM_THREADS": "1",
    }
    errors = root / "stderr"
    with open(errors, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlxrlhf_cli.main", "serve", "--port", "0", *arguments],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment,
        )
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert found, line + errors.read_text()
        yield found.group(), process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address(served_folder):
    with server(served_folder) as (base, process):
        yield base
        errors = (served_folder / "stderr").read_text()
        assert process.poll() is None, f"the server outlived every test: {errors}"
        assert "Traceback" not in errors and "nobody foresaw" not in errors, errors
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", errors), "no terminal obeys a request"


@pytest.fixture
def client(address):
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60)


def test_plain_and_streamed_answers_and_the_models_list(client):
    models = [m.id for m in client.models.list()]
    assert models == ["weights/nano/rlhf"]
    for name in (*models, "default_model"):
        answer = client.chat.completions.create(model=name, messages=PLAIN[:1], temperature=0)
        assert answer.choices[0].message.content == PLAIN[1]["content"]
        assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens > 5
    chunks = [
        c.choices[0]
        for c in client.chat.completions.create(model=models[0], messages=PLAIN[:1], temperature=0, stream=True)
    ]
    assert "".join(c.delta.content or "" for c in chunks) == PLAIN[1]["content"]
    assert len(chunks) > 3 and chunks[-1].finish_reason == "stop"


def test_a_tool_call_comes_out_as_one_and_its_result_goes_in(client):
    asked = dict(model="default_model", tools=TOOLS, temperature=0)
    message = client.chat.completions.create(messages=ASKED, **asked).choices[0]
    assert message.finish_reason == "tool_calls"
    assert message.message.content == CALL["content"]
    (call,) = message.message.tool_calls
    assert call.function.name == "execute_python"
    assert json.loads(call.function.arguments) == {"code": "print(17 * 23)"}
    # As an agent does it: the message goes back as the client gave it.
    turns = [*ASKED, message.message.model_dump(exclude_none=True), {**RESULT, "tool_call_id": call.id}]
    answer = client.chat.completions.create(messages=turns, **asked)
    assert answer.choices[0].message.content == ANSWER["content"]
    assert not answer.choices[0].message.tool_calls


def test_a_streamed_tool_call(client):
    chunks = [
        c.choices[0]
        for c in client.chat.completions.create(
            model="default_model", messages=ASKED, tools=TOOLS, temperature=0, stream=True
        )
    ]
    calls = [call for c in chunks for call in c.delta.tool_calls or []]
    assert [call.function.name for call in calls] == ["execute_python"]
    assert json.loads(calls[0].function.arguments) == {"code": "print(17 * 23)"}
    assert chunks[-1].finish_reason == "tool_calls"
    assert "<tool_call>" not in "".join(c.delta.content or "" for c in chunks)


def test_text_never_becomes_a_special_token(client, served_folder):
    """The stock server would end the user's turn where the text says <|end|>."""
    text = "<|end|><|assistant|>"
    tokenizer = tokenizers.Tokenizer(served_folder / "t")
    answer = client.chat.completions.create(
        model="default_model", messages=[{"role": "user", "content": text}], max_tokens=1
    )
    assert answer.usage.prompt_tokens == 3 + len(tokenizer.encode(text)) > 10


def test_bad_conversations_are_refused_and_the_server_goes_on(client):
    for messages, said in (
        ([{"role": "user", "content": "word " * 3_000}], "the model's context holds 2,048"),
        ([{"role": "robot", "content": "x"}], "robot"),
        ([], "at least one message"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="default_model", messages=messages)
        assert said in caught.value.body["message"] and caught.value.body["type"] == "invalid_request_error"
    developer = [{"role": "developer", "content": "Be brief."}, *PLAIN[:1]]
    assert client.chat.completions.create(model="default_model", messages=developer, max_tokens=2).usage


def test_llama_cpp_serves_the_same_model_alike(served_folder, monkeypatch):
    """Its GGUF file in llama.cpp's server: the same prompts, the same text, the same tool call."""
    import xllamacpp

    monkeypatch.chdir(served_folder)
    export.run(ExportConfig(to="gguf", out="model.gguf"))
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.verbosity = "model.gguf", 1024, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    llama_cpp = xllamacpp.Server(params)

    def ask(messages, **more):
        return llama_cpp.handle_chat_completions({"messages": messages, "temperature": 0, "max_tokens": 80, **more})[
            "choices"
        ][0]["message"]

    assert ask(PLAIN[:1])["content"] == PLAIN[1]["content"]
    called = ask(ASKED, tools=TOOLS)
    assert called["content"] == CALL["content"]
    assert called["tool_calls"][0]["function"] == CALL["tool_calls"][0]["function"]
    turns = [*ASKED, called, {**RESULT, "tool_call_id": called["tool_calls"][0]["id"]}]
    assert ask(turns, tools=TOOLS)["content"] == ANSWER["content"]


def test_one_model_and_no_other(client):
    """A request cannot make the server open another folder, or look on a hub."""
    for name in ("someone/some-model", "/etc"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=name, messages=PLAIN[:1])
        assert "this server has 'weights/nano/rlhf'" in caught.value.body["message"]


def test_web_pages_may_not_call_it(address):
    request = urllib.request.Request(address + "/models", headers={"Origin": "https://example.org"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 403 and caught.value.headers["Access-Control-Allow-Origin"] is None


def test_clients_that_leave_do_not_stop_it(client):
    """Many leave in the middle of their answers, at once; those who stay are answered."""

    def leave(stop_after):
        stream = client.chat.completions.create(
            model="default_model",
            messages=[{"role": "user", "content": "x" * 50}],
            stream=True,
            temperature=1,
            max_tokens=400,
        )
        for i, _ in enumerate(stream):
            if i == stop_after:
                stream.close()
                return

    threads = [threading.Thread(target=leave, args=(i % 4,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = client.chat.completions.create(model="default_model", messages=PLAIN[:1], temperature=0)
    assert answer.choices[0].message.content == PLAIN[1]["content"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_it_without_a_traceback(served_folder, how):
    with server(served_folder, "--model", "weights/nano/rlhf") as (base, process):
        client = openai.OpenAI(base_url=base, api_key="none", max_retries=0)
        stream = client.chat.completions.create(
            model="default_model",
            messages=[{"role": "user", "content": "y"}],
            stream=True,
            temperature=1,
            max_tokens=5_000,
        )
        next(iter(stream))
        process.send_signal(how)
        process.communicate(timeout=20)
        errors = (served_folder / "stderr").read_text()
        assert process.returncode == 0 and "Traceback" not in errors, errors


def test_a_taken_port_is_one_sentence(served_folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = mlxrlhf_process(served_folder, "serve --model weights/nano/rlhf --port", port, code=2)
    assert said.err.count("\n") == 1, said.err
    assert f"port {port} on 127.0.0.1 cannot be used" in said.err


def test_what_cannot_be_served_is_named(served_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no trained model"):
        serve.run(ServeConfig(size="nano"))
    model = served_folder / "weights" / "nano" / "rlhf"
    with pytest.raises(UserError, match="holds no adapter_config.json"):
        serve.run(ServeConfig(model=str(model), adapter="nowhere"))
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "nothing-known"}))
    with pytest.raises(UserError, match="mlx-lm cannot load"):
        serve.run(ServeConfig(model=".", port=0))


def test_a_published_template_without_tools_gets_them_in_the_system_turn(tmp_path):
    """And its calls are spelled out, as in the tool dialogues that such a model is trained on."""
    from transformers import PreTrainedTokenizerFast

    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    stock = tokenizers_library.Tokenizer(tokenizers_library.models.BPE())
    stock.pre_tokenizer = tokenizers_library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    stock.decoder = tokenizers_library.decoders.ByteLevel()
    stock.train_from_iterator(
        ["x"],
        tokenizers_library.trainers.BpeTrainer(
            special_tokens=["<|im_start|>", "<|im_end|>"],
            initial_alphabet=tokenizers_library.pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    made = PreTrainedTokenizerFast(tokenizer_object=stock, eos_token="<|im_end|>", chat_template=template)
    made.save_pretrained(tmp_path)
    tokenizer = tokenizers.open_tokenizer(tmp_path)
    call = [{"function": {"name": "f", "arguments": {"a": 1}}}]
    ids = dialogue.prompt([*ASKED, {"role": "assistant", "content": "", "tool_calls": call}], tokenizer, TOOLS)
    assert tokenizer.decode(ids) == (
        f"<|im_start|>system\nYou may call these tools:\n{json.dumps(TOOLS)}\nTo call one, answer <tool_call>"
        '{"name": ..., "arguments": {...}}</tool_call> and wait for its result.<|im_end|>\n'
        "<|im_start|>user\nWhat is 17 * 23?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><|im_end|>\n'
    )
    made.chat_template = template + "{{ tools | tojson }}"
    made.save_pretrained(tmp_path)
    tokenizer = tokenizers.open_tokenizer(tmp_path)
    assert tokenizer.decode(dialogue.prompt(ASKED, tokenizer, TOOLS)).endswith(f"<|im_end|>\n{json.dumps(TOOLS)}")


def test_a_request_may_turn_thinking_on_where_the_template_can(tmp_path):
    """The allowlist holds enable_thinking; the tokenizer of such a request reads its reasoning too."""
    from transformers import PreTrainedTokenizerFast

    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    stock = tokenizers_library.Tokenizer(tokenizers_library.models.BPE())
    stock.pre_tokenizer = tokenizers_library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    stock.decoder = tokenizers_library.decoders.ByteLevel()
    stock.train_from_iterator(
        ["x"],
        tokenizers_library.trainers.BpeTrainer(
            special_tokens=["<|im_start|>", "<|im_end|>"],
            initial_alphabet=tokenizers_library.pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    PreTrainedTokenizerFast(tokenizer_object=stock, eos_token="<|im_end|>", chat_template=template).save_pretrained(
        tmp_path
    )
    served = api.Served(("m",), 300, 1_000, 10, 0.0)
    prompter = serve.Prompter(tokenizers.open_tokenizer(tmp_path))
    said = {}
    for thinking in (None, False, True):
        more = {} if thinking is None else {"chat_template_kwargs": {"enable_thinking": thinking}}
        tokenizer, ids = prompter.prompt(api.chat_request({"messages": ASKED, **more}, served))
        said[thinking] = tokenizer.decode(ids)
    assert said[None] == said[False] and said[False].endswith("</think>\n\n") and said[True].endswith("assistant\n")
    house = serve.Prompter(tokenizers.Tokenizer(served_tokenizer(tmp_path)))
    with pytest.raises(UserError, match="have no arguments"):
        house.prompt(api.chat_request({"messages": ASKED, "chat_template_kwargs": {"enable_thinking": True}}, served))


def served_tokenizer(folder):
    tokenizers.train(["def f(): return 1\n" * 50, json.dumps(TOOLS)], 400, folder / "house")
    return folder / "house"


# --- what OpenAI's clients may ask for -------------------------------------------------------------------------------


def test_several_choices_stops_seeds_and_log_probabilities(client):
    hello = dict(model="default_model", messages=PLAIN[:1], temperature=0)
    answer = client.chat.completions.create(n=2, **hello)
    assert [c.message.content for c in answer.choices] == [PLAIN[1]["content"]] * 2
    assert [c.index for c in answer.choices] == [0, 1]
    for stop, said in (("there", "hello "), (["zzz", "re, pa"], "hello the"), ("🦜", "hello there, parrot ")):
        answer = client.chat.completions.create(stop=stop, **hello)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (said, "stop")
        stream = client.chat.completions.create(
            stop=stop, stream=True, n=2, stream_options={"include_usage": True}, **hello
        )
        parts, usages = ["", ""], []
        for chunk in stream:
            usages.append(chunk.usage)
            for choice in chunk.choices:
                parts[choice.index] += choice.delta.content or ""
        assert parts == [said, said]
        assert usages[-1].completion_tokens > 2 and set(usages[:-1]) == {None}
    wild = dict(model="default_model", messages=[{"role": "user", "content": "x"}], temperature=2, max_tokens=12)
    first, again, other = (
        client.chat.completions.create(seed=seed, **wild).choices[0].message.content for seed in (7, 7, -8)
    )
    assert first == again != other
    answer = client.chat.completions.create(logprobs=True, top_logprobs=3, **hello)
    found = answer.choices[0].logprobs.content
    assert "".join(bytes(t.bytes).decode(errors="ignore") for t in found[:3]) in PLAIN[1]["content"]
    assert len(found) == answer.usage.completion_tokens
    for token in found:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob), "greedy takes the likeliest"
    streamed = client.chat.completions.create(logprobs=True, stream=True, **hello)
    counted = sum(len(c.logprobs.content) for chunk in streamed for c in chunk.choices if c.logprobs)
    assert counted == len(found)


def test_plain_completions(client):
    answer = client.completions.create(model="default_model", prompt="import", max_tokens=5, temperature=0)
    assert answer.object == "text_completion" and answer.usage.completion_tokens <= 5
    streamed = client.completions.create(
        model="default_model", prompt="import", max_tokens=5, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_an_answer_ends_at_the_context(client, served_folder):
    tokenizer = tokenizers.Tokenizer(served_folder / "t")
    answer = client.chat.completions.create(
        model="default_model",
        messages=[{"role": "user", "content": "a b c " * 640}],
        max_tokens=1_000_000,
        logit_bias={str(tokenizer.end_id): -100},
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens > 1_900 and answer.usage.total_tokens == 2_048


def test_the_caller_may_keep_tools_from_being_called(client):
    asked = dict(model="default_model", messages=ASKED, tools=TOOLS, temperature=0)
    message = client.chat.completions.create(tool_choice="none", **asked).choices[0]
    assert not message.message.tool_calls and message.finish_reason in ("stop", "length")
    message = client.chat.completions.create(tool_choice="auto", parallel_tool_calls=False, **asked).choices[0]
    assert len(message.message.tool_calls) == 1 and message.finish_reason == "tool_calls"


def test_thirty_two_clients_at_once(client):
    """All are answered, each with its own."""
    said = {}

    def ask(number):
        messages, content = ((PLAIN[:1], PLAIN[1]["content"]), (ASKED, None))[number % 2]
        tools = {"tools": TOOLS} if content is None else {}
        message = client.chat.completions.create(model="default_model", messages=messages, temperature=0, **tools)
        said[number] = content is None and message.choices[0].message.tool_calls or message.choices[0].message.content

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 32
    assert {said[n] for n in range(0, 32, 2)} == {PLAIN[1]["content"]}
    assert {said[n][0].function.name for n in range(1, 32, 2)} == {"execute_python"}


# --- what is refused: the attack, and a harmless twin ----------------------------------------------------------------


@pytest.mark.parametrize("case", FIELDS, ids=lambda case: case.name)
def test_what_would_break_it_is_refused_and_its_harmless_twin_answered(client, case):
    asked = {"model": "default_model", "messages": PLAIN[:1], "max_tokens": 2}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body={**asked, **case.attack}, cast_to=object)
    error = caught.value.body
    assert (
        error["param"] == case.param and error["type"] == "invalid_request_error" and error["code"] and error["message"]
    )
    assert client.post("/chat/completions", body={**asked, **case.twin}, cast_to=object)["choices"]


def test_the_table_in_the_docs_is_that_of_these_attacks():
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(START)[2].partition(END)[0] == table(), "run: python tests/server_attacks.py"
    for row in TESTED:
        file, _, name = row.test.partition("::")
        assert f"def {name}(" in (PAGE.parent.parent / "tests" / file).read_text(encoding="utf-8"), row.test


def test_no_image_is_fetched(client):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.5)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x.png"
        parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="default_model", messages=[{"role": "user", "content": parts}])
        with pytest.raises(TimeoutError):
            listening.accept()
    answer = client.chat.completions.create(
        model="default_model", messages=[{"role": "user", "content": parts[:1]}], max_tokens=2
    )
    assert answer.usage


def test_a_page_cannot_reach_it(address):
    """A page's text/plain POST, a foreign name that points here, and the preflight of another page."""
    host, port = address.removeprefix("http://").removesuffix("/v1").split(":")
    body = json.dumps({"messages": PLAIN[:1], "max_tokens": 1})

    def ask(method="POST", path="/v1/chat/completions", **headers):
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request(method, path, body if method == "POST" else None, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if answer.status != 200:
            assert json.loads(text)["error"]["message"], "errors have OpenAI's form"
        return answer.status

    kind = {"Content-Type": "application/json"}
    assert ask(**kind) == 200 and ask(Host=f"localhost:{port}", **kind) == 200
    assert ask(**{"Content-Type": "text/plain"}) == 415
    assert ask(Origin="http://evil.example", **kind) == 403 and ask(Origin="null", **kind) == 403
    assert ask(Host="evil.example", **kind) == 421 and ask(Host=f"evil.example:{port}", **kind) == 421
    assert ask("OPTIONS", Origin="http://evil.example", **{"Access-Control-Request-Method": "POST"}) == 403
    assert ask("GET", "/v1/models", Host="evil.example") == 421
    assert ask("GET", "/v1/nothing") == 404 and ask("DELETE") == 405
    assert ask("GET", "/v1/models/weights/nano/rlhf") == 200 and ask("GET", "/v1/models/other") == 404


def test_pages_that_were_named_may_ask(served_folder):
    with server(served_folder, "--allowed-origins", "http://good.example") as (base, _):
        for origin, status in (("http://good.example", 200), ("http://evil.example", 403)):
            request = urllib.request.Request(
                base + "/chat/completions",
                method="OPTIONS",
                headers={
                    "Origin": origin,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "content-type",
                },
            )
            try:
                answer = urllib.request.urlopen(request)
                assert answer.headers["Access-Control-Allow-Origin"] == origin
                assert "content-type" in answer.headers["Access-Control-Allow-Headers"]
            except urllib.error.HTTPError as error:
                answer = error
            assert answer.status == status


# --- the generation thread -------------------------------------------------------------------------------------------


def test_a_dead_generation_thread_ends_the_process_with_a_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from mlxrlhf.agent import serve\nserve._end(ValueError('\\x1b[31m'))"],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "\x1b" not in done.stderr
    assert "the thread that generates answers stopped on an error that nobody foresaw (ValueError" in done.stderr


def test_what_the_thread_cannot_take_is_told_and_a_client_that_left_frees_its_place(served_folder):
    from mlxrlhf.backends.mlx import serve as mlx_serve
    from mlxrlhf.backends.serving import Sampling

    deaths = []
    engine = mlx_serve.open_engine(served_folder / "weights" / "nano" / "rlhf", "", ends=[], on_death=deaths.append)

    async def leave_one_and_hear_another():
        heard = []
        left = engine.reply([1, 2, 3], Sampling(2_000, 1.0))
        put = left._box.put
        left._box.put = lambda item: (heard.append(item), put(item))
        async for _ in left:
            if len(heard) > 3:
                break
        waiting = [engine.reply([1, 2, 3], Sampling(2_000, 1.0)) for _ in range(40)]  # more than decode at once
        for one in waiting:
            one._box.leave()  # before it began
        other = [token async for token in engine.reply([4, 5], Sampling(30, 1.0))]
        assert len(other) == 30 and other[-1].finish == "length"
        assert not any(getattr(item, "finish_reason", None) for item in heard), "it was ended, it did not end"

    asyncio.run(leave_one_and_hear_another())
    assert not deaths

    async def kill():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                async for _ in engine.reply([1], Sampling(5, 1.0, top_k=10**9)):  # as nothing checked would pass on
                    pass

    asyncio.run(kill())
    assert len(deaths) == 1 and "top_k" in str(deaths[0])


def test_adapters_of_another_model_are_named(served_folder, tmp_path, monkeypatch):
    """The adapters, not the model: and mlx-lm alone would serve the model without them, or die at the first answer."""
    from mlxrlhf.models.adapters import write_adapters

    monkeypatch.chdir(served_folder)
    names = {
        "another layer": ("model.layers.7.self_attn.q_proj", 96),
        "another width": ("model.layers.0.self_attn.q_proj", 64),
    }
    for what, (name, width) in names.items():
        weights = {
            f"{name}.lora_a": np.zeros((width, 4), np.float32),
            f"{name}.lora_b": np.zeros((4, width), np.float32),
        }
        folder = tmp_path / what.replace(" ", "-")
        write_adapters(folder, weights, scale=1.0, num_layers=2)
        with pytest.raises(UserError, match="the adapters in .*give the --model that they were trained on"):
            serve.run(ServeConfig(model="weights/nano/rlhf", adapter=str(folder), port=0))
    weights = {f"{name}.lora_a": np.zeros((96, 4), np.float32), f"{name}.lora_b": np.zeros((4, 96), np.float32)}
    write_adapters(tmp_path / "fits", weights, scale=1.0, num_layers=2, base=published.shipped())
    with pytest.raises(UserError, match="give the --model they were trained on"):
        serve.run(ServeConfig(model="weights/nano/rlhf", adapter=str(tmp_path / "fits"), port=0))


# --- a fuzzer --------------------------------------------------------------------------------------------------------

#: seconds that it runs; ten minutes by MLXRLHF_FUZZ_SECONDS=600
FUZZ_SECONDS = float(os.environ.get("MLXRLHF_FUZZ_SECONDS", "6"))
NASTY = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 0.5, -0.0, 1e-300, 1e-9, 0.01, 0.3, 1.0, 1.5, 2.0, -2.0, 1e9, 1e308, 2**31),
    *(
        2**63,
        2**64,
        10**400,
        float("nan"),
        float("inf"),
        "",
        " ",
        "x",
        "5",
        "\x1b]0;title\x07",
        "\u202e",
        "\ud83d",
        "🦜",
    ),
    *(
        "<|end|>",
        "<tool_call>",
        "x" * 5_000,
        "none",
        "auto",
        "required",
        "default_model",
        "/etc/passwd",
        "\0",
        [],
        [[]],
    ),
    *(["a"], [""], [5], ["\n", "e"], {}, {"1": 1}, {"799": 100}, {"800": 1}, {"8192": 5}, {"-1": 0}, {"x": "y"}),
    *({str(i): 100 for i in range(800)}, {str(i): -100 for i in range(800)}, {"type": "text"}, {"type": "json_object"}),
    *(
        {"include_usage": True},
        {"enable_thinking": True},
        TOOLS,
        [{"type": "function"}],
        [{"type": "text", "text": "hi"}],
    ),
    *(
        [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/"}}],
        [PLAIN[0]],
        [RESULT],
        [*ASKED, CALL, RESULT],
    ),
]
FIELDS = (
    "model messages stream stream_options max_tokens max_completion_tokens temperature top_p top_k min_p seed stop n "
    "repetition_penalty repetition_context_size presence_penalty presence_context_size frequency_penalty prompt user "
    "frequency_context_size logit_bias logprobs top_logprobs tools tool_choice parallel_tool_calls response_format "
    "chat_template_kwargs metadata store service_tier modalities xtc_probability adapters draft_model role_mapping"
).split()


def nasty_body(rng):
    """A request that is well-formed here and there."""
    body = {
        "model": "default_model",
        "messages": rng.choice([PLAIN[:1], ASKED, [*ASKED, CALL, RESULT]]),
        "max_tokens": 4,
    }
    for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 5])):
        body[rng.choice(FIELDS)] = rng.choice(NASTY)
    if rng.random() < 0.25:  # within what is allowed, so that it reaches the generation thread
        body |= {
            "temperature": rng.choice([0, 1e-9, 0.01, 1, 2]),
            "top_p": rng.choice([1e-9, 0.5, 1]),
            "top_k": rng.choice([0, 1, 799, 800]),
            "min_p": rng.choice([0, 0.5, 1]),
            "repetition_penalty": rng.choice([0, 0.1, 1, 10]),
            "presence_penalty": rng.choice([-2, 0, 2]),
            "frequency_penalty": rng.choice([-2, 0, 2]),
            "logit_bias": rng.choice([{}, {"0": 100}, {str(i): rng.choice([-100, 100]) for i in range(800)}]),
            "n": rng.choice([1, 3]),
            "seed": rng.choice([None, 0, -5, 2**63]),
            "stream": rng.random() < 0.5,
        }
    if rng.random() < 0.1:
        message = rng.choice(body["messages"]) if isinstance(body["messages"], list) and body["messages"] else None
        if isinstance(message, dict):
            changed = {**message, rng.choice(["role", "content", "tool_calls", "name", "x"]): rng.choice(NASTY)}
            body["messages"] = [changed, *PLAIN[:1]]
    if rng.random() < 0.03:
        deep = []
        for _ in range(rng.choice([50, 100, 500])):
            deep = [deep]
        body[rng.choice(FIELDS)] = deep
    data = json.dumps(body, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        data = data[: rng.randrange(len(data))] + rng.choice([b"", b"\xff", b"[" * 50_000, b"\x1b[2J"])
    return data


def one_attack(rng, host, port):
    """The status of one request, 0 where this client left before it was answered."""
    path = rng.choice(["/v1/chat/completions"] * 8 + ["/v1/completions", "/v1/models", "/x\x7f".replace("\x7f", "%1b")])
    headers = {"Content-Type": "application/json", "Host": f"{host}:{port}"}
    if rng.random() < 0.1:
        headers[rng.choice(["Content-Type", "Host", "Origin"])] = rng.choice(
            ["text/plain", "evil.example", "null", "[", ""]
        )
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request(rng.choice(["POST"] * 20 + ["GET", "OPTIONS", "PUT"]), path, nasty_body(rng), headers)
        if rng.random() < 0.05:
            return 0
        answer = connection.getresponse()
        if answer.status == 200 and rng.random() < 0.05:
            answer.read(10)
            return 0
        text = answer.read().decode()
    finally:
        connection.close()
    streamed = "event-stream" in (answer.headers["Content-Type"] or "")
    if answer.status == 200 and streamed:
        assert text.endswith("data: [DONE]\n\n") and '"error"' not in text.partition("choices")[0], text
    elif answer.status != 200 or path.startswith("/v1/c"):
        found = json.loads(text)
        assert found["choices"] if answer.status == 200 else found["error"]["message"], text
    return answer.status


def test_a_fuzzer_does_not_bring_it_down(address, client):
    """Four at once, each its own seed; every request is answered, with an error of OpenAI's form or an answer."""
    host, port = address.removeprefix("http://").removesuffix("/v1").split(":")
    until, counts, failures = time.monotonic() + FUZZ_SECONDS, collections.Counter(), []

    def attack(seed):
        rng = random.Random(seed)
        while time.monotonic() < until and not failures:
            state = rng.getstate()
            try:
                counts[one_attack(rng, host, int(port))] += 1
            except Exception as error:
                failures.append((seed, repr(error)))
                rng.setstate(state)
                failures.append(nasty_body(rng)[:2_000])

    seeds = [int(os.environ.get("MLXRLHF_FUZZ_SEED", "0")) * 4 + i for i in range(4)]
    threads = [threading.Thread(target=attack, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{counts.total()} requests in {FUZZ_SECONDS:.0f} s: {dict(counts)}")
    assert not failures, failures
    assert set(counts) <= {0, 200, 400, 403, 404, 405, 413, 415, 421, 429} and min(counts[200], counts[400]) > 5, counts
    answer = client.chat.completions.create(model="default_model", messages=PLAIN[:1], temperature=0)
    assert answer.choices[0].message.content == PLAIN[1]["content"]
