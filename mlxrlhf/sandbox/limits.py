"""What one snippet may use, and how it ended."""

from dataclasses import asdict, dataclass

from mlxrlhf.errors import UserError


@dataclass(frozen=True)
class Limits:
    """What one snippet may use, all its processes together.

    The kernel holds each process to the limits on CPU time and memory at once; that all together keep them is looked at
    a few times a second. Time in line for a core does not count as wall time where the system counts it (on macOS it is
    estimated), so that the load of the machine decides nothing.
    """

    wall_seconds: float = 5.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 << 20  # address space of each process on Linux; resident size of all
    output_bytes: int = 64 << 10  # each for stdout and stderr; the snippet is ended at the limit
    file_bytes: int = 16 << 20  # the largest file; all files together may take four times this
    processes: int = 16  # threads count too on Linux

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not value > 0:
                raise UserError(f"The sandbox limit {name} must be above 0, not {value}.")


STANDARD = Limits()


@dataclass(frozen=True)
class Result:
    """How a snippet ended. `returncode` is negative for a signal, as in `subprocess`: -9 when it was ended."""

    stdout: str
    stderr: str
    returncode: int
    seconds: float  # wall time
    timed_out: bool  # ended at limits.wall_seconds
    truncated: bool  # ended at limits.output_bytes

    @property
    def ok(self) -> bool:
        """Whether it ended by itself and with exit code 0."""
        return self.returncode == 0 and not self.timed_out and not self.truncated
