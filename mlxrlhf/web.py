"""What the page of `annotate` and the server of `serve` share: listening, who may ask, bodies, and the end of it.

A program that listens on this machine can be reached by every web page that its user opens. What is guarded here: the
Host header (a name of another page's that was made to point here), the Origin header (requests that another page
sends), the Content-Type (a page may send text without asking, JSON only if we allow it), the size and depth of bodies,
and time: a request that stops half-way does not hold its connection for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mlxrlhf.display import cleaned
from mlxrlhf.errors import UserError, unforeseen

#: seconds in which a request's head, and then its body, must have come
PATIENCE = 10.0
#: how deep JSON may be nested
DEPTH = 64

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


# --- listening -----------------------------------------------------------------------------------------------------


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to host and port. Raises UserError when that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} is not an address ({reason}); give one of this machine") from None
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


def link(listening: socket.socket, host: str) -> str:
    """http://... as another program can open it; host: what the user asked for."""
    bound, port = listening.getsockname()[:2]
    if ipaddress.ip_address(bound).is_unspecified:
        host = _outward_address() or socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def own_names(host: str) -> frozenset[str]:
    """What this machine may be called in a Host header."""
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


@dataclass
class Guard:
    """ASGI middleware: every request passes Host, Origin and token before anything else looks at it.

    refuse(reason, status) makes the answer to one that may not. hosts: names that the Host header may give, whatever
    the port (a tunnel changes it). any_address: numeric addresses too: another page can make a name of its own point
    here, but not an address. origins: pages of other origins that may ask; "*" is any. programs: whether a request
    without an Origin may do more than read, which no page can send. token: asked for in the link, then kept in a
    cookie; "" asks for none.
    """

    app: ASGIApp
    refuse: Callable[[str, int], Response]
    hosts: frozenset[str]
    any_address: bool
    origins: Collection[str] = ()
    programs: bool = False
    token: str = ""
    cookie: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._refusal(Request(scope)) if scope["type"] == "http" else None
        try:
            await (answer or self.app)(scope, receive, send)
        except Exception as error:  # starlette has answered with 500
            print(cleaned(f"mlxrlhf: {unforeseen(error, 'an answer to a request')}"), file=sys.stderr, flush=True)

    def _refusal(self, request: Request) -> Response | None:
        given = request.headers.getlist("host")
        if len(given) != 1 or not self._known(given[0]):
            return self.refuse("this name is not served here; open the address that was printed at the start", 421)
        if not self._may(request, given[0]):
            return self.refuse("requests from other pages are refused", 403)
        if not self.token:
            return None
        asked = parse_qs(request.url.query).get("token", [""])[0]
        if request.method == "GET" and request.url.path == "/" and _same(asked, self.token):
            # Out of the address bar and the history. Lax, because a link from a message is another site's.
            answer = RedirectResponse("/", 303, headers=HEADERS)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
            return answer
        if not _same(request.cookies.get(self.cookie, ""), self.token):
            return self.refuse("open the link with the token that was printed at the start", 403)
        return None

    def _may(self, request: Request, host: str) -> bool:
        origins = request.headers.getlist("origin")
        if not origins:
            return self.programs or request.method in ("GET", "HEAD")
        return len(origins) == 1 and (_netloc(origins[0]) == host or self.allowed(origins[0]))

    def allowed(self, origin: str) -> bool:
        """Whether pages of an origin were let in by name."""
        return "*" in self.origins or origin in self.origins

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


def _netloc(origin: str) -> str:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc if parts.scheme in ("http", "https") else ""


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


# --- bodies --------------------------------------------------------------------------------------------------------


class BadRequest(Exception):
    """A request that cannot be taken: what is wrong with it, and the status to answer with."""

    def __init__(self, reason: str, status: int = 400):
        super().__init__(reason)
        self.status = status


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The JSON object that a request carries, of at most `limit` bytes. Raises BadRequest for anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest("the request must have the content type application/json", 415)
    received = bytearray()

    async def receive() -> None:
        async for chunk in request.stream():
            received.extend(chunk)
            if len(received) > limit:
                raise BadRequest(f"the request is too long; at most {limit:,} bytes are taken", 413)

    try:
        await asyncio.wait_for(receive(), PATIENCE)
    except TimeoutError:
        raise BadRequest(f"the rest of the request did not come within {PATIENCE:.0f} seconds", 408) from None
    except ClientDisconnect:
        raise BadRequest("the client left before its request was complete") from None
    return parse_object(bytes(received))


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object whose numbers are finite, whose text is Unicode and which is not nested too deep."""
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request is not valid JSON ({_reason(error)})") from None
    if not isinstance(body, dict):
        raise BadRequest("the request must be a JSON object")
    _check(body)
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _reason(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _check(body: dict[str, Any]) -> None:
    """Raises BadRequest for what JSON's grammar lets through: numbers like 1e999, half characters, deep nesting."""
    values: list[Any] = [body]
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in values:
            if isinstance(value, dict):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise BadRequest("the request holds a number that is not finite")
            elif isinstance(value, str) and not _is_unicode(value):
                raise BadRequest("the request holds half a character (a lone surrogate)")
        if not below:
            return
        values = below
    raise BadRequest(f"the request is nested too deep; at most {DEPTH} levels are taken")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- serving -------------------------------------------------------------------------------------------------------


class _Protocol(H11Protocol):
    """HTTP in which a request's head must be complete within PATIENCE seconds of its first byte."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(PATIENCE, self._too_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class _CleanFormatter(logging.Formatter):
    """Lines of libraries, which may quote a request or a model."""

    def format(self, record: logging.LogRecord) -> str:
        return cleaned(super().format(record))


def log_warnings() -> None:
    """Let warnings of libraries reach stderr, cleaned of what a terminal would obey."""
    handler = logging.StreamHandler()
    handler.setFormatter(_CleanFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


@contextlib.contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    """uvicorn raises the signal again that ended it: the default action of SIGTERM would end the process there."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def server(app: ASGIApp, *, grace: int = 3) -> uvicorn.Server:
    """A server of `app`; requests that run when it is asked to stop have `grace` seconds to end."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            server_header=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=grace,
            log_config=None,
            log_level="critical",  # requests that are cut off at the end are no news
            access_log=False,
        )
    )


def serve(app: ASGIApp, listening: socket.socket, *, grace: int = 3) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    with _sigterm_is_ctrl_c(), contextlib.suppress(KeyboardInterrupt):
        server(app, grace=grace).run(sockets=[listening])
