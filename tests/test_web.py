"""What every page of ours holds against: other pages, broken bodies, clients that stop half-way, tests that sleep."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.request

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from mlxrlhf import web
from mlxrlhf.annotate import server as annotate
from mlxrlhf.annotate.store import Item, Store
from mlxrlhf.web import BadRequest, parse_object

# --- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data,said",
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "Infinity is no JSON number"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": ["\\ud83d"]}', "half a character"),
        (b'{"\\udc00": 1}', "half a character"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deep"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, "nested too deep"),
    ],
)
def test_what_is_no_json_object_is_a_bad_request(data, said):
    with pytest.raises(BadRequest, match=said) as caught:
        parse_object(data)
    assert caught.value.status == 400


def test_what_json_may_say_is_read():
    assert parse_object(b'{"a": [1, -2.5e3, null, true, {"b": "\\ud83e\\udd9c"}]}') == {
        "a": [1, -2500.0, None, True, {"b": "🦜"}]
    }
    assert parse_object(b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}")


# --- who may ask ---------------------------------------------------------------------------------------------------


async def echo(scope, receive, send):
    """An app that answers with the JSON it was sent."""
    request = Request(scope, receive)
    try:
        answer = JSONResponse(await web.read_json(request, 1_000))
    except BadRequest as error:
        answer = PlainTextResponse(str(error), error.status)
    await answer(scope, receive, send)


def guarded(**settings):
    settings = {"hosts": web.own_names("127.0.0.1"), "any_address": False, **settings}
    return web.Guard(echo, lambda reason, status: PlainTextResponse(reason, status), **settings)


async def call(app, headers, method="POST", path="/", content=b"{}"):
    """Status and body of one request to an ASGI app."""
    given = {"host": "127.0.0.1", **headers}
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "scheme": "http", "root_path": ""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
    sent, waiting = [], [{"type": "http.request", "body": content, "more_body": False}]

    async def receive():
        return waiting.pop() if waiting else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def ask(app, headers, method="POST", content=b"{}"):
    return asyncio.run(call(app, headers, method, content=content))[0]


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "kind", ["text/plain", "", "application/x-www-form-urlencoded", "text/plain; application/json"]
)
def test_a_page_may_send_text_without_asking_so_text_is_not_taken(kind):
    assert ask(guarded(programs=True), {"content-type": kind}, content=b'{"a": 1}') == 415
    assert ask(guarded(programs=True), {"content-type": "Application/JSON; charset=utf-8"}) == 200


@pytest.mark.parametrize(
    "origin,allowed,status",
    [
        (None, (), 200),  # a program
        ("http://127.0.0.1", (), 200),  # a page of our own
        ("http://evil.example", (), 403),
        ("null", (), 403),
        ("file://", (), 403),
        ("http://127.0.0.1.evil.example", (), 403),
        ("ftp://127.0.0.1", (), 403),
        ("http://[", (), 403),
        ("http://good.example", ("http://good.example",), 200),
        ("http://evil.example", ("http://good.example",), 403),
        ("https://good.example", ("http://good.example",), 403),
        ("http://anyone.example", ("*",), 200),
    ],
)
def test_pages_of_other_origins_are_refused_unless_they_were_named(origin, allowed, status):
    headers = {**JSON, **({"origin": origin} if origin is not None else {})}
    app = guarded(programs=True, origins=allowed)
    assert ask(app, headers) == status
    assert ask(app, headers, "OPTIONS") == status, "nor is the question whether they may answered"
    if origin is None:
        assert ask(guarded(), headers) == 403, "where only pages ask, none does without an Origin"


def test_a_name_that_was_made_to_point_here_is_refused():
    app = guarded(programs=True)
    assert ask(app, {**JSON, "host": "evil.example"}) == 421
    assert ask(app, {**JSON, "host": "localhost:8080"}) == 200
    assert ask(app, {**JSON, "host": "10.0.0.7"}) == 421
    assert ask(guarded(programs=True, any_address=True), {**JSON, "host": "10.0.0.7"}) == 200


def test_a_body_has_a_limit():
    assert ask(guarded(programs=True), JSON, content=json.dumps({"a": "x" * 1_000}).encode()) == 413


# --- clients that stop half-way --------------------------------------------------------------------------------------


@pytest.fixture
def running(monkeypatch):
    """An app served in a thread, with less patience; yields its port."""
    monkeypatch.setattr(web, "PATIENCE", 0.4)
    listening = web.listen("127.0.0.1", 0)
    server = web.server(guarded(programs=True), grace=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


HEAD = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent,status",
    [
        ("", ""),
        ("POST / HT", ""),
        (HEAD, ""),
        (HEAD + "Content-Length: 100\r\n\r\n{", "408"),
        (HEAD + "Transfer-Encoding: chunked\r\n\r\n5\r\n{\r\n", "408"),
        (HEAD + "Content-Length: 2\r\n\r\n{}" + "POST / HT", "200"),  # a second one on a connection that was kept
    ],
)
def test_half_a_request_does_not_hold_its_connection(running, sent, status):
    with socket.create_connection(("127.0.0.1", running), timeout=10) as client:
        client.sendall(sent.encode())
        received = b""
        while piece := client.recv(4096):  # until the server closes it
            received += piece
    assert received[9:12].decode() == status
    # And others are answered meanwhile, and afterwards.
    request = urllib.request.Request(f"http://127.0.0.1:{running}/", b"{}", JSON)
    assert urllib.request.urlopen(request, timeout=10).status == 200


def test_one_byte_at_a_time_does_not_hold_it_either(running):
    with socket.create_connection(("127.0.0.1", running), timeout=10) as client:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 8:
                client.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began < 8, "the server closed it"


# --- the page's tests ------------------------------------------------------------------------------------------------


def test_answers_that_sleep_keep_nobody_waiting(tmp_path, monkeypatch):
    """45 of one person's, and another votes and sees their own results at once."""
    sleeping = threading.Event()

    def passes(pairs, *, unsafe):
        if "sleep" in pairs[0][1]:
            sleeping.wait(20)
        return [True, False]

    monkeypatch.setattr(annotate, "passes", passes)
    store = Store(tmp_path / "votes.db", overlap=2)
    tests = annotate.TestQueue(unsafe=False)
    store.add([Item(f"p{i}", f"sleep {i}", f"sleep b{i}", "x", "y", "s", tests=("assert 1",)) for i in range(45)])
    app = annotate.application(store, tests)

    async def post(what, **body):
        status, text = await call(app, JSON, path=f"/api/{what}", content=json.dumps(body).encode())
        return status, json.loads(text)

    async def vote(name):
        shown = (await post("next", annotator=name))[1]["item"]["assignment"]
        said = dict(answer="left", strength=1, reasons=[], rationale="", seconds=1.0)
        assert (await post("vote", annotator=name, assignment=shown, **said))[0] == 200
        return shown

    async def play():
        shown = [await vote("ann") for _ in range(45)]
        asked = [asyncio.create_task(post("tests", annotator="ann", assignment=one)) for one in shown]
        while sum(task.done() for task in asked) < 45 - annotate.WAITING_EACH:
            await asyncio.sleep(0.05)
        assert {task.result()[0] for task in asked if task.done()} == {429}
        store.add([Item("quick", "1", "2", "x", "y", "s", tests=("assert 1",))])
        store._db.execute("UPDATE items SET place = '' WHERE prompt = '\"quick\"'")
        status, seen = await asyncio.wait_for(post("tests", annotator="bob", assignment=await vote("bob")), 10)
        assert status == 200 and {seen["left"], seen["right"]} == {True, False}
        assert not sleeping.is_set()
        sleeping.set()
        kept = [status for status, _ in await asyncio.gather(*asked)]
        assert sorted(kept) == [200] * annotate.WAITING_EACH + [429] * (45 - annotate.WAITING_EACH)

    asyncio.run(play())
    tests.close()
    store.close()
