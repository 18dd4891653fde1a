"""Faults: whose fault it is when a training ends in an error, and how often it is tried again. The whole policy.

* The architecture's fault ends the trial as failed, at once: whatever the training raises that is not below, also
  GPU memory that is too small, a loss that is not a number, an evaluator that ends without its values.
* A death (the worker process is gone or was killed, by whomever, or a CUDA error has made it useless) and a fault of
  the machine (a full or broken disk, a store that cannot be reached) are nobody's fault until shown otherwise: the
  trial goes on from its checkpoint in a fresh process, on another node if there is one that can hold it. After
  `DEATHS` of them it has failed.
* A node that is lost takes its trials with it without being held against them, up to `LOSSES` times each.
* A node on which `SUSPECTS` different trials in a row died, with no rung reached on it in between, is avoided for
  the rest of the search, as long as there are others.

Knows nothing of Ray.
"""

import errno
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import torch

from search.checkpoints.checkpoints import OutOfReach

DEATHS = 3  # of a trial, after which it has failed; one may be chance, two a bad node, three are its own
LOSSES = 20  # of nodes under one trial: spot machines come and go, but a search must end
SUSPECTS = 3  # different trials in a row whose workers died on a node
HOPELESS = 4  # deaths of workers before the first measurement of any; more than one trial can cause

# What the system says where a disk, a file system or a connection is at fault, not what is trained.
_MACHINE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENXIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.EREMOTEIO,
    }
)
# The same out of the mouth of torch.save and of safetensors, which raise errors of their own.
_WRITING = re.compile(r"inline_container\.cc:\d+\] \. (unexpected pos|PytorchStreamWriter failed)|\(os error (\d+)\)")
_NO_CUDA = ("CUDA error:", "CUDA unknown error", "No CUDA GPUs are available", "Found no NVIDIA driver")
_STORES = ("aiohttp.", "botocore.", "urllib3.", "requests.")  # whose connections raise errors of their own


class MachineFault(Exception):
    """What a worker ends with where its machine, not the training, is at fault; the message says what it was."""


def of_machine(error: BaseException) -> bool:
    """Whether an error is no fault of the architecture, so that another process or node may do without."""
    return any(_broken_device(cause) or _broken_storage(cause) for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _broken_device(error: BaseException) -> bool:
    """After it no kernel runs in this process any more, whatever is trained."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and str(error).startswith(_NO_CUDA)
    )


def _broken_storage(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | OutOfReach):
        return True
    if isinstance(error, OSError):
        return error.errno in _MACHINE
    if type(error).__module__.startswith(_STORES):
        return "Connect" in type(error).__name__ or "Timeout" in type(error).__name__
    said = _WRITING.search(str(error))
    return said is not None and (said[2] is None or int(said[2]) in _MACHINE)


@dataclass(kw_only=True)
class Deaths:
    """Who died where, and what follows from it.

    Attributes:
        avoided: nodes, by id, that get no more trials as long as there are others.
    """

    avoided: set[str] = field(default_factory=set)
    _deaths: Counter[int] = field(default_factory=Counter)
    _losses: Counter[int] = field(default_factory=Counter)
    _places: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    _suspects: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def total(self) -> int:
        """Deaths in the whole search; lost nodes do not count."""
        return self._deaths.total()

    def died(self, number: int, node: str | None) -> str:
        """Takes note of a death; returns why the trial is not tried again, or nothing."""
        self._deaths[number] += 1
        if node is not None:
            self._places[number].add(node)
            self._suspects[node].add(number)
        return f"tried {DEATHS} times" if self._deaths[number] >= DEATHS else ""

    def lost(self, number: int) -> str:
        """Takes note of a node lost under a trial; returns why the trial is not tried again, or nothing."""
        self._losses[number] += 1
        return f"{LOSSES} nodes were lost under it" if self._losses[number] >= LOSSES else ""

    def reached(self, number: int, node: str) -> None:
        """A trial has come to a rung on a node: whatever died there, the node works."""
        self._suspects.pop(node, None)

    def condemned(self, nodes: Collection[str]) -> list[str]:
        """Which of the nodes are to be avoided from now on."""
        found = [node for node in nodes if node not in self.avoided and len(self._suspects[node]) >= SUSPECTS]
        self.avoided.update(found)
        return found

    def everywhere(self, nodes: Collection[str]) -> bool:
        """Whether workers have died on all of the nodes."""
        return all(self._suspects.get(node) for node in nodes)

    def shunned(self, number: int) -> frozenset[str]:
        """Nodes that a trial had better not be tried on."""
        return frozenset(self.avoided | self._places[number])
