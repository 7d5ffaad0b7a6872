"""The page and its four requests, on this machine alone unless asked otherwise.

What is guarded, beside what web.py guards: a token on any other address than the machine's own, and a
Content-Security-Policy under which the page runs its own script and nothing else. What is not: people are not told
apart by a password, whoever may open the page may vote under any name; and traffic is plain HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import os
import re
import secrets
import socket
import sys
import threading
import webbrowser
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mlxrlhf import web
from mlxrlhf.annotate import agreement
from mlxrlhf.annotate.items import task_of
from mlxrlhf.annotate.store import ANSWERS, REASONS, SIDES, STRENGTHS, Conflict, Store
from mlxrlhf.config import AnnotateConfig
from mlxrlhf.errors import UserError
from mlxrlhf.tasks.answers import extract_code
from mlxrlhf.tasks.judge import passes
from mlxrlhf.web import BadRequest

Body = dict[str, Any]

PAGE = Path(__file__).with_name("page.html")
MAX_BODY = 64 << 10  # bytes of a request
MAX_NAME, MAX_RATIONALE = 60, 8_000  # characters
#: answers whose tests run at once, and that one person and all people may have waiting
RUNNING, WAITING_EACH, WAITING_ALL = 4, 4, 64


def serve(store: Store, listening: socket.socket, config: AnnotateConfig, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    host, port = listening.getsockname()[:2]
    local = web.is_local(host)
    token = "" if local else secrets.token_urlsafe(24)
    link = f"{web.link(listening, config.host)}/" + (f"?token={token}" if token else "")
    tests = TestQueue(unsafe=config.unsafe_exec)
    app = web.Guard(
        application(store, tests),
        _refuse,
        hosts=web.own_names(config.host),
        any_address=not local,
        token=token,
        cookie=f"mlxrlhf_annotate_{port}",
    )
    say(f"annotate: {link}   Ctrl-C stops")
    if not local:
        say("annotate: whoever has this link may read and vote, and it travels as plain HTTP: use a network you trust")
    if not config.no_open and (
        sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()
    web.log_warnings()
    try:
        web.serve(app, listening)
    finally:
        tests.close()


def _refuse(reason: str, status: int) -> Response:
    return PlainTextResponse(reason + "\n", status, web.HEADERS)


def policy(page: str) -> str:
    """A Content-Security-Policy that lets the page's own script and style run, by their hashes, and nothing else.

    Trusted types make the browser itself refuse text that is to become HTML.
    """

    def hashes(tag: str) -> str:
        blocks = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in blocks)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


# --- the requests --------------------------------------------------------------------------------------------------


def application(store: Store, tests: TestQueue) -> Starlette:
    """The page at /, and POST /api/{next,vote,undo,tests} of JSON objects."""
    page = PAGE.read_text("utf-8")
    headers = {**web.HEADERS, "Content-Security-Policy": policy(page)}

    def state(name: str, item: Body | None) -> Body:
        return {"item": item, "progress": store.progress(name), "agreement": agreement.live(store.tallies())}

    def next_item(body: Body) -> Body:
        name = _name(body)
        return state(name, store.current(name))

    def vote(body: Body) -> Body:
        name = _name(body)
        answer, strength, reasons = body.get("answer"), body.get("strength"), body.get("reasons")
        rationale, seconds = body.get("rationale"), body.get("seconds")
        if answer not in ANSWERS or not isinstance(strength, int) or (answer in SIDES and strength not in STRENGTHS):
            raise BadRequest("answer or strength is not one of those offered")
        if not isinstance(reasons, list) or not all(r in REASONS for r in reasons):
            raise BadRequest("reasons are not among those offered")
        if not isinstance(rationale, str) or len(rationale) > MAX_RATIONALE:
            raise BadRequest(f"the rationale must be text of at most {MAX_RATIONALE:,} characters")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise BadRequest("seconds must be a number")
        store.vote(name, _assignment(body), answer, strength, reasons, rationale.strip(), min(seconds, 86_400))
        return {"saved": True, "progress": store.progress(name), "agreement": agreement.live(store.tallies())}

    def undo(body: Body) -> Body:
        name = _name(body)
        item = store.undo(name)
        if item is None:
            raise Conflict("there is no vote of yours to undo")
        return state(name, item)

    async def results(body: Body) -> Body:
        """Whether each side passes the item's tests, run on first use. Known only after the vote."""
        name = _name(body)
        item, swapped = await run_in_threadpool(store.reveal, name, _assignment(body))
        passed: Sequence[bool | None] = [item["passed_a"], item["passed_b"]]
        if None in passed:
            passed = await tests.run(name, item)
            await run_in_threadpool(store.save_tests, item["id"], *passed)
        left, right = passed[::-1] if swapped else passed
        return {"left": bool(left), "right": bool(right), "tests": list(task_of(item).tests)}

    def threaded(work: Callable[[Body], Body]) -> Callable[[Body], Awaitable[Body]]:
        async def run(body: Body) -> Body:
            return await run_in_threadpool(work, body)

        return run

    def endpoint(work: Callable[[Body], Awaitable[Body]]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            try:
                return JSONResponse(await work(await web.read_json(request, MAX_BODY)), headers=web.HEADERS)
            except BadRequest as error:
                return JSONResponse({"error": str(error)}, error.status, web.HEADERS)
            except Conflict as error:
                return JSONResponse({"error": str(error)}, 409, web.HEADERS)
            except UserError as error:
                return JSONResponse({"error": str(error)}, 503, web.HEADERS)

        return handle

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    work = {"next": threaded(next_item), "vote": threaded(vote), "undo": threaded(undo), "tests": results}
    return Starlette(
        routes=[Route("/", index), *(Route(f"/api/{name}", endpoint(f), methods=["POST"]) for name, f in work.items())]
    )


class TestQueue:
    """Runs the tests of answers beside everything else: votes never wait for an answer that sleeps.

    One answer of each person at a time, so that nobody waits for all that another asked for.
    """

    def __init__(self, *, unsafe: bool):
        self._unsafe = unsafe
        self._pool = ThreadPoolExecutor(RUNNING, thread_name_prefix="tests")
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()

    async def run(self, name: str, item: Mapping[str, Any]) -> Sequence[bool]:
        """Whether a and b pass. Raises BadRequest when too many wait already."""
        if self._waiting[name] >= WAITING_EACH or self._waiting.total() >= WAITING_ALL:
            raise BadRequest("tests of other answers are still running; try again in a moment", 429)
        self._waiting[name] += 1
        try:
            async with self._turns.setdefault(name, asyncio.Lock()):
                return await asyncio.get_running_loop().run_in_executor(self._pool, self._passes, item)
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._turns[name]

    def _passes(self, item: Mapping[str, Any]) -> Sequence[bool]:
        task = task_of(item)
        return passes([(task, extract_code(item[side])) for side in ("a", "b")], unsafe=self._unsafe)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _name(body: Body) -> str:
    name = body.get("annotator")
    name = " ".join(name.split()) if isinstance(name, str) else ""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise BadRequest(f"a name has 1 to {MAX_NAME} printable characters")
    return name


def _assignment(body: Body) -> int:
    assignment = body.get("assignment")
    if isinstance(assignment, bool) or not isinstance(assignment, int) or not 0 < assignment < 2**63:
        raise BadRequest("the request names no item")
    return assignment
