"""One run seen from outside: its output is collected, and it is ended at a limit."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from mlxrlhf.sandbox import processes
from mlxrlhf.sandbox.folders import folder_exceeds
from mlxrlhf.sandbox.jail import KEEPER, RECORD
from mlxrlhf.sandbox.limits import Limits, Result

KILLED = -int(signal.SIGKILL)
MACOS = sys.platform == "darwin"


class Following:
    """The run of one request, seen from outside: collects its output and ends it at a limit."""

    #: Seconds between two looks at what its processes use; on macOS these looks are the only limit on some of it.
    LOOK_EVERY = 0.1 if MACOS else 0.2
    #: A snippet that never gets a core is ended nevertheless, at this multiple of its wall time.
    PATIENCE = 20

    def __init__(
        self,
        bwrap: subprocess.Popen | None,
        line: socket.socket,
        streams: tuple[int, int],
        limits: Limits,
        folder: str | None,
        box_bytes: int,
        cancelled: Callable[[], bool],
    ):
        self.bwrap, self.line, self.limits, self.cancelled = bwrap, line, limits, cancelled
        self.folder, self.box_bytes = folder, box_bytes
        self.text = {stream: bytearray() for stream in streams}
        self.records = bytearray()
        self.keeper, self.line_closed = 0, False
        self.status: int | None = None
        self.timed_out = self.truncated = self.ending = False
        self.started = self.clock_started = time.monotonic()
        self.deadline = self.started + 30  # until the keeper is there
        self.next_look = self.started + self.LOOK_EVERY
        self.remembered: processes.Remembered | None = None

    def result(self) -> Result:
        """Follow it to its end. Raises OSError when it was never started."""
        try:
            self._follow()
        finally:
            if self.remembered:
                self.remembered.end()
        if not self.keeper:
            raise OSError("the sandbox's launcher did not start it")
        # What was written before the end is still in the pipes.
        for stream in self.text:
            while len(self.text[stream]) <= self.limits.output_bytes and self._read(stream):
                pass
        self.truncated = self._printed_too_much()
        out, err = (bytes(data[: self.limits.output_bytes]).decode(errors="replace") for data in self.text.values())
        return Result(
            stdout=out,
            stderr=err,
            returncode=KILLED if self.status is None else self.status,
            seconds=time.monotonic() - self.started,
            timed_out=self.timed_out,
            truncated=self.truncated,
        )

    def _follow(self) -> None:
        """Read its output until the keeper reports its end; call for the end at a limit."""
        with selectors.DefaultSelector() as selector:
            for stream in self.text:
                os.set_blocking(stream, False)
                selector.register(stream, selectors.EVENT_READ)
            selector.register(self.line, selectors.EVENT_READ)
            while self.status is None and not self.line_closed:
                until = min(self.deadline, self.next_look) - time.monotonic()
                ready = [key.fileobj for key, _ in selector.select(max(0.0, until))]
                for stream in self.text:
                    if stream in ready and not self._read(stream):
                        selector.unregister(stream)
                if self.line in ready:
                    self._read_records()
                elif not self.ending and (self._printed_too_much() or self._look() or self._time_is_up()):
                    self._end()
                elif self.ending and time.monotonic() >= self.deadline:
                    self._force_end()

    def _read(self, stream: int) -> int:
        """Read what is there; how much it was."""
        try:
            piece = os.read(stream, 1 << 16)
        except BlockingIOError:
            return 0  # a process that was left behind may hold it open: it is not waited for
        self.text[stream] += piece
        return len(piece)

    def _read_records(self) -> None:
        try:
            piece = self.line.recv(4096)
        except ConnectionError:  # the keeper was ended from outside
            piece = b""
        self.line_closed = not piece
        self.records += piece
        while len(self.records) >= RECORD.size:
            kind, number = RECORD.unpack(self.records[: RECORD.size])
            del self.records[: RECORD.size]
            if kind == KEEPER:
                self.keeper = number
                self.clock_started = time.monotonic()
                self.deadline = self.clock_started + self.limits.wall_seconds
                if MACOS:
                    self.remembered = processes.Remembered(number)
            else:
                self.status = number

    def _printed_too_much(self) -> bool:
        return any(len(data) > self.limits.output_bytes for data in self.text.values())

    @property
    def _top(self) -> int:
        """The process below which everything of this snippet is."""
        return self.bwrap.pid if self.bwrap else self.keeper

    def _look(self) -> bool:
        """Now and then: whether its processes use more than they may together, or nobody waits for it any more."""
        now = time.monotonic()
        if now < self.next_look or not self.keeper:
            return False
        self.next_look = now + self.LOOK_EVERY
        if self.cancelled():
            return True
        if self.remembered:
            self.remembered.look()
        limits, used = self.limits, processes.usage(self._top, now - self.clock_started)
        ours = 3 if self.bwrap else 0  # bwrap, launcher, keeper
        if used.processes > limits.processes + ours or used.cpu_seconds > limits.cpu_seconds + 0.5:
            return True
        if used.memory_bytes > limits.memory_bytes:
            exact = None if MACOS else processes.shared_memory_counted_once(self._top)
            if (exact or used.memory_bytes) > limits.memory_bytes:
                return True
        return self.folder is not None and folder_exceeds(self.folder, self.box_bytes)

    def _time_is_up(self) -> bool:
        """Whether its wall time is over, without the time that it stood in line for a core."""
        now = time.monotonic()
        if now < self.deadline:
            return False
        if not self.keeper:
            return True
        wall = self.limits.wall_seconds
        waited = processes.usage(self._top, now - self.clock_started).waited_seconds
        later = self.clock_started + wall + min(waited, wall * (self.PATIENCE - 1))
        if later > now + 0.01:
            self.deadline = later
            return False
        self.timed_out = True
        return True

    def _end(self) -> None:
        """Ask the keeper to end it, by closing the line."""
        self.ending, self.deadline = True, time.monotonic() + 5.0
        self.next_look = self.deadline
        self.line.shutdown(socket.SHUT_WR)

    def _force_end(self) -> None:
        """The keeper does not answer: end it, and with it all below it."""
        if self.bwrap:
            self.bwrap.kill()
        elif self.keeper:
            try:
                os.kill(self.keeper, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.line_closed = True
