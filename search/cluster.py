"""The Ray cluster: reached, silenced, counted. Knows nothing of studies or training.

Ray is imported here, in `search.executor` and in `search.scheduler` only.
"""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)

from search.gate import said
from spaces import InputError

LOOK_EVERY_S = 2.0  # at which nodes the cluster has

# Read by Ray and Tune from the environment. No loggers, no snapshots, no signal handler, no message of their own;
# workers stay in their directory; as many trials may start at once as there is room for; whose worker is gone, for
# whatever reason, is given back to the study.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one training gets; None is decided by the cluster: a GPU each where there are any, else a core.

    Attributes:
        gpus: a fraction shares one.
    """

    cpus: float | None = None
    gpus: float | None = None


@contextmanager
def cluster(address: str | None = None) -> Iterator[None]:
    """A Ray cluster for as long as the context lasts: the one at `address`, or the cores of this machine.

    Within another such context, or where Ray is up already, it is that one.

    Raises:
        InputError: the cluster at `address` cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    with environment(QUIET), _restored("PYTHONBREAKPOINT", "RAY_AUTH_MODE"), silence():
        _connect(address)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        ray.init(address="local", include_dashboard=False, **quiet)
        return
    try:
        if _asks_for_token(address):
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        ray.init(address=address, runtime_env={"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0"}}, **quiet)
    except Exception as error:
        raise InputError(
            f"no Ray cluster can be used at {address}: {said(error)}. If it asks for a token, put that into "
            "~/.ray/auth_token, or into RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token"
        ) from error


def _asks_for_token(address: str) -> bool:
    """Whether a cluster turns away who comes without a token.

    It has to be asked: Ray does not say so before the driver has chosen, and a driver with a token cannot start
    actors on a cluster without (Ray 2.60).

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return False  # Ray finds the address by itself
    socket.create_connection((host, int(port)), timeout=10).close()
    if "RAY_AUTH_MODE" in os.environ:
        return False  # it is settled
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as asking:
        assert asking.stderr is not None
        for line in asking.stderr:
            if "InvalidAuthToken" in line:
                asking.kill()
                return True
    return False


class Share:
    """What each trial gets, and how many trials the cluster has room for now."""

    def __init__(self, request: Mapping[str, float]):
        self.request = dict(request)
        self._room, self._looked = 0, -LOOK_EVERY_S
        if self.room() == 0:
            raise InputError(
                f"no node has {self.request['cpu']:g} CPUs and {self.request['gpu']:g} GPUs for a trial; "
                f"the cluster has {_total('CPU'):g} CPUs and {_total('GPU'):g} GPUs on {len(_nodes())} nodes"
            )

    @classmethod
    def of(cls, resources: Resources) -> "Share":
        """Fills in what is left open: a GPU each where there are any, and a fair share of the cores.

        Raises:
            InputError: no node has as much.
        """
        gpus = resources.gpus
        if gpus is None:
            gpus = 1.0 if _total("GPU") else 0.0
        cpus = resources.cpus
        if cpus is None:
            cpus = max(1, _total("CPU") * gpus // _total("GPU")) if gpus and _total("GPU") else 1.0
        if cpus <= 0:
            raise InputError(f"a trial needs more than 0 CPUs, not {cpus:g}")
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise InputError(f"{gpus:g} GPUs for a trial: allowed are a part of one, or a whole number")
        return cls({"cpu": cpus, "gpu": gpus})

    def room(self) -> int:
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            needs = {"CPU": self.request["cpu"], "GPU": self.request["gpu"]}
            self._room = sum(
                int(min(node.get(name, 0.0) / need for name, need in needs.items() if need > 0)) for node in _nodes()
            )
        return self._room


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _total(resource: str) -> float:
    return sum(node.get(resource, 0.0) for node in _nodes())


@contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that are not set; takes them away again."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _restored(*names: str) -> Iterator[None]:
    """Undoes what Ray does to variables."""
    before = {name: os.environ[name] for name in names if name in os.environ}
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def silence() -> Iterator[None]:
    """Ray's and Tune's own messages are not for the terminal: what goes wrong is in the study."""
    logger, printing = logging.getLogger("ray"), ray._private.worker
    before = logger.level, printing._worker_logs_enabled
    logger.setLevel(logging.CRITICAL + 1)
    printing._worker_logs_enabled = False  # what its debugger does too; there is no public way
    try:
        yield
    finally:
        logger.setLevel(before[0])
        printing._worker_logs_enabled = before[1]
