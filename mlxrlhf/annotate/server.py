"""The page and its four requests, on this machine alone unless asked otherwise.

What is guarded: the Host header (a foreign name that was made to point here), the Origin header (other pages that send
requests), a token on any other address than the machine's own, and a Content-Security-Policy under which the page runs
its own script and nothing else. What is not: people are not told apart by a password, whoever may open the page may
vote under any name; and traffic is plain HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import math
import os
import re
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mlxrlhf.annotate import agreement
from mlxrlhf.annotate.items import task_of
from mlxrlhf.annotate.store import ANSWERS, REASONS, SIDES, STRENGTHS, Conflict, Store
from mlxrlhf.config import AnnotateConfig
from mlxrlhf.errors import UserError
from mlxrlhf.tasks.judge import code_for, passes

PAGE = Path(__file__).with_name("page.html")
MAX_BODY = 64 << 10  # bytes of a request
MAX_NAME, MAX_RATIONALE = 60, 8_000  # characters


# --- listening -----------------------------------------------------------------------------------------------------


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to host and port. Raises UserError when that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host} is not an address ({error.strerror}); give one of this machine") from None
    if os.name == "posix":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UserError(
            f"port {port} on {host} cannot be used ({error.strerror}); choose another with --port"
        ) from None
    return listening


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(store: Store, listening: socket.socket, config: AnnotateConfig, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    host, port = listening.getsockname()[:2]
    local = is_local(host)
    token = "" if local else secrets.token_urlsafe(24)
    shown = config.host
    if ipaddress.ip_address(host).is_unspecified:
        shown = _outward_address() or socket.gethostname()
    link = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/" + (f"?token={token}" if token else "")
    app = Guard(
        application(store, config),
        hosts=_names(config.host),
        any_address=not local,
        token=token,
        cookie=f"mlxrlhf_annotate_{port}",
    )
    running = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=3,
        )
    )
    say(f"annotate: {link}   Ctrl-C stops")
    if not local:
        say("annotate: whoever has this link may read and vote, and it travels as plain HTTP: use a network you trust")
    if not config.no_open and (
        sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()
    try:
        running.run(sockets=[listening])
    except KeyboardInterrupt:
        pass


def _names(host: str) -> frozenset[str]:
    own = socket.gethostname().lower()
    local = {"localhost", "127.0.0.1", "::1"}
    return frozenset(local | ({host.lower(), own, f"{own}.local"} - {""}))


def _outward_address() -> str:
    """This machine's address on its network; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return probe.getsockname()[0]
        except OSError:
            return ""


# --- who may ask ---------------------------------------------------------------------------------------------------


class Guard:
    """ASGI middleware: every request passes Host, Origin and token before anything else looks at it.

    hosts: names the Host header may give, whatever the port (a tunnel changes it). any_address: numeric addresses too:
    another page can make a name of its own point here, but not an address.
    """

    def __init__(self, app, *, hosts: frozenset[str], any_address: bool, token: str, cookie: str):
        self.app, self.hosts, self.any_address, self.token, self.cookie = app, hosts, any_address, token, cookie

    async def __call__(self, scope, receive, send) -> None:
        request = Request(scope)
        answer = self._refusal(request)
        await (answer or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        given = request.headers.getlist("host")
        if len(given) != 1 or not self._known(given[0]):
            return _refuse("this name is not served here; open the link that mlxrlhf annotate printed", 421)
        origin = request.headers.get("origin")
        if (request.method not in ("GET", "HEAD") or origin is not None) and (
            origin is None or urlsplit(origin).netloc != given[0]
        ):
            return _refuse("requests from other pages are refused", 403)
        if not self.token:
            return None
        asked = parse_qs(request.url.query).get("token", [""])[0]
        if request.method == "GET" and request.url.path == "/" and _same(asked, self.token):
            # Out of the address bar and the history. Lax, because a link from a message is another site's.
            answer = RedirectResponse("/", 303, headers=HEADERS)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
            return answer
        if not _same(request.cookies.get(self.cookie, ""), self.token):
            return _refuse("open the link with the token that mlxrlhf annotate printed when it started", 403)
        return None

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _refuse(reason: str, status: int) -> Response:
    return PlainTextResponse(reason + "\n", status, HEADERS)


HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


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


def application(store: Store, config: AnnotateConfig) -> Starlette:
    """The page at /, and POST /api/{next,vote,undo,tests} of JSON objects."""
    page = PAGE.read_text("utf-8")
    headers = {**HEADERS, "Content-Security-Policy": policy(page)}
    running = threading.Lock()

    def state(name: str, item: dict | None) -> dict:
        return {"item": item, "progress": store.progress(name), "agreement": agreement.live(store.tallies())}

    def next_item(body: dict) -> dict:
        name = _name(body)
        return state(name, store.current(name))

    def vote(body: dict) -> dict:
        name = _name(body)
        answer, strength, reasons = body.get("answer"), body.get("strength"), body.get("reasons")
        rationale, seconds = body.get("rationale"), body.get("seconds")
        if answer not in ANSWERS or (answer in SIDES and strength not in STRENGTHS):
            raise _Bad("answer or strength is not one of those offered")
        if not isinstance(reasons, list) or not all(r in REASONS for r in reasons):
            raise _Bad("reasons are not among those offered")
        if not isinstance(rationale, str) or len(rationale) > MAX_RATIONALE:
            raise _Bad(f"the rationale must be text of at most {MAX_RATIONALE:,} characters")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
            raise _Bad("seconds must be a number")
        store.vote(name, _assignment(body), answer, strength, reasons, rationale.strip(), min(seconds, 86_400))
        return {"saved": True, "progress": store.progress(name), "agreement": agreement.live(store.tallies())}

    def undo(body: dict) -> dict:
        name = _name(body)
        item = store.undo(name)
        if item is None:
            raise Conflict("there is no vote of yours to undo")
        return state(name, item)

    def tests(body: dict) -> dict:
        """Whether each side passes the item's tests, run on first use. Known only after the vote."""
        item, swapped = store.reveal(_name(body), _assignment(body))
        task = task_of(item)
        passed = [item["passed_a"], item["passed_b"]]
        if None in passed:
            with running:
                passed = passes(
                    [(task, code_for(task.tests, item[side])) for side in ("a", "b")], unsafe=config.unsafe_exec
                )
            store.save_tests(item["id"], *passed)
        left, right = passed[::-1] if swapped else passed
        return {"left": bool(left), "right": bool(right), "tests": list(task.tests)}

    def endpoint(work: Callable[[dict], dict]):
        async def handle(request: Request) -> Response:
            try:
                body = await _json(request)
                return JSONResponse(await run_in_threadpool(work, body), headers=HEADERS)
            except _Bad as error:
                return JSONResponse({"error": str(error)}, 400, HEADERS)
            except Conflict as error:
                return JSONResponse({"error": str(error)}, 409, HEADERS)
            except UserError as error:
                return JSONResponse({"error": str(error)}, 503, HEADERS)

        return handle

    async def index(request: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    work = {"next": next_item, "vote": vote, "undo": undo, "tests": tests}
    return Starlette(
        routes=[Route("/", index), *(Route(f"/api/{name}", endpoint(f), methods=["POST"]) for name, f in work.items())]
    )


class _Bad(Exception):
    """A request that the page would not make."""


async def _json(request: Request) -> dict:
    received = b""
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY:
            raise _Bad("the request is too long")
    try:
        body = json.loads(received)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise _Bad("the request must be a JSON object")
    return body


def _name(body: dict) -> str:
    name = body.get("annotator")
    name = " ".join(name.split()) if isinstance(name, str) else ""
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise _Bad(f"a name has 1 to {MAX_NAME} printable characters")
    return name


def _assignment(body: dict) -> int:
    assignment = body.get("assignment")
    if isinstance(assignment, bool) or not isinstance(assignment, int) or not 0 < assignment < 2**63:
        raise _Bad("the request names no item")
    return assignment
