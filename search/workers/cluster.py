"""The Ray cluster: reached, equipped, silenced, counted. Knows nothing of studies or training.

Ray is imported here, and as in `search.workers.executor`.
"""

import logging
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import (
    AuthenticationTokenLoader,
    Config,
    maybe_enable_token_auth_if_token_available,
)
from ray.autoscaler.sdk import request_resources
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.tune import PlacementGroupFactory

from search.gate import said
from search.workers.pools import GIB, Claim, Resources, checked, left, room, told
from spaces import InputError

LOOK_EVERY_S = 2.0  # at which nodes the cluster has
MOST_WISHED = 1000  # trials that a cluster is asked to make room for

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


@contextmanager
def cluster(address: str | None = None, luggage: Mapping[str, Any] | None = None) -> Iterator[None]:
    """A Ray cluster for as long as the context lasts: the one at `address`, or the cores of this machine.

    Within another such context, or where Ray is up already, it is that one.

    Args:
        luggage: what its workers are to have, as Ray's runtime environment; see `search.workers.luggage`.

    Raises:
        InputError: the cluster at `address` cannot be reached, or none be started here.
    """
    if ray.is_initialized():
        yield
        return
    with environment(QUIET), _restored("PYTHONBREAKPOINT", "RAY_AUTH_MODE"), silence():
        _connect(address, luggage)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(address: str | None, luggage: Mapping[str, Any] | None) -> None:
    if luggage is None and address is not None:
        luggage = {"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": QUIET["RAY_CHDIR_TO_TRIAL_DIR"]}}
    equipped = {"runtime_env": dict(luggage)} if luggage else {}
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    AuthenticationTokenLoader.instance().reset_cache()  # else how an earlier cluster was reached stays
    Config.initialize("")
    if address is None:
        try:
            ray.init(address="local", include_dashboard=False, **equipped, **quiet)
        except Exception as error:  # Ray knows no kind of its own for it
            raise InputError(
                f"Ray could not be started on this machine: {said(error)}. Try again when it is less busy, or use a "
                "cluster that runs, with --address"
            ) from error
        return
    try:
        if _asks_for_token(address):
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        ray.init(address=address, **equipped, **quiet)
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
    """What each trial gets, and how many trials the cluster has room for now.

    A cluster with an autoscaler is asked to grow, for as many trials as are still to do. How far it may, and what the
    nodes will have that come, it does not tell: nothing is refused then, and a trial waits for a node that can hold it.

    Args:
        claim: tells what of a node is not for trials.

    Raises:
        InputError: no node has as much as a trial needs, and none can come.
    """

    def __init__(self, pools: Sequence[Mapping[str, float]], claim: Callable[[], Claim | None] = lambda: None):
        self.pools, self.claim = tuple(checked(pool) for pool in pools), claim
        self._nodes: dict[str, dict[str, float]] = {}
        self._looked, self._wished = -math.inf, 0
        self._grows, kinds = grows(), list(left(_nodes(), claim()).values())
        for pool in self.pools:
            if room([pool], kinds) == [0] and not self._grows:
                raise InputError(
                    f"no node has {told(pool)} for a trial; the cluster has {_total('CPU'):g} CPUs and "
                    f"{_total('GPU'):g} GPUs on {len(_nodes())} nodes; on the largest {_most(kinds, pool)}"
                )

    @classmethod
    def of(cls, resources: Resources, claim: Callable[[], Claim | None] = lambda: None) -> "Share":
        """Fills in what is left open: a GPU each where there are any, and a fair share of the cores beside it.

        Raises:
            InputError: no node has as much.
        """
        if resources.pools:
            return cls(resources.pools, claim)
        nodes = _nodes()
        free = left(nodes, claim()).values()
        beside = [node.get("CPU", 0.0) / node["GPU"] for node in free if node.get("GPU")]
        gpus = float(any(node.get("GPU") for node in nodes.values())) if resources.gpus is None else resources.gpus
        cpus = resources.cpus
        if cpus is None:
            cpus = max(1.0, min(beside) * gpus // 1) if gpus and beside else 1.0
        memory = {} if resources.memory is None else {"memory": resources.memory * GIB}
        return cls([{"CPU": cpus, "GPU": gpus, **memory}], claim)

    def request(self, pool: int, avoided: Collection[str] = ()) -> PlacementGroupFactory:
        """One trial of a pool, as Tune asks Ray for it: on any node but those."""
        if not avoided:
            return PlacementGroupFactory([self.pools[pool]])
        elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"}
        return PlacementGroupFactory([self.pools[pool]], bundle_label_selector=[elsewhere])

    def room(self, avoided: Collection[str] = ()) -> list[int]:
        """How many trials of each pool the nodes hold at once, those left out that are to be avoided."""
        nodes = left(self.nodes(), self.claim())
        return room(self.pools, [node for known, node in nodes.items() if known not in avoided])

    def nodes(self) -> Mapping[str, Mapping[str, float]]:
        """What the nodes have, by their ids; at most two seconds old."""
        return self._nodes if time.monotonic() - self._looked < LOOK_EVERY_S else self.look()

    def look(self) -> Mapping[str, Mapping[str, float]]:
        """What the nodes have now."""
        self._nodes, self._looked = _nodes(), time.monotonic()
        return self._nodes

    def wish(self, trials: float) -> None:
        """Asks a cluster that can grow for room for so many trials of the first pool; 0 lets go of all not in use."""
        trials = int(min(trials, MOST_WISHED)) if self._grows else 0
        if trials != self._wished:
            claim = self.claim()
            held = [dict(claim.needs)] if claim is not None and trials else []
            request_resources(bundles=held + [dict(self.pools[0])] * trials)
            self._wished = trials


def node_for(needs: Mapping[str, float], resources: Resources) -> str | None:
    """The node on which somebody else had best have these needs: that which leaves most trials room on the cluster.

    None where there is none yet, and the cluster grows.

    Raises:
        InputError: no node has room for it, or none is then left for a trial.
    """
    pools, rooms = Share.of(resources).pools, dict[str, int]()
    for node, has in _nodes().items():
        if room([needs], [has]) != [0]:
            with suppress(InputError):
                rooms[node] = sum(Share.of(resources, partial(Claim, node=node, needs=needs)).room())
    if any(rooms.values()):
        return max(rooms, key=rooms.__getitem__)
    if grows():
        return None
    unshared = "; what measures shares no GPU, so that a part of one for a trial does not help" * ("GPU" in needs)
    raise InputError(
        f"costs that are measured need {told(needs)} to themselves, beside {told(pools[0])} for a trial; the cluster "
        f"has {_total('CPU'):g} CPUs and {_total('GPU'):g} GPUs on {len(_nodes())} nodes, and no room for both. "
        "Measure with less (`threads`, or device: cpu, in `costs`), give less to each trial, or take a larger machine"
        f"{unshared}"
    )


def grows() -> bool:
    """Whether the cluster has an autoscaler."""
    return bool(is_autoscaler_v2(fetch_from_server=True))


def _nodes() -> dict[str, dict[str, float]]:
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def is_up(node: str) -> bool:
    """Whether a node, by its id, is one of the cluster, as far as is known."""
    return node in _nodes()


def _total(resource: str) -> float:
    return sum(node.get(resource, 0.0) for node in _nodes().values())


def _most(nodes: Sequence[Mapping[str, float]], pool: Mapping[str, float]) -> str:
    """The most that any node has of each resource of a pool."""
    return told({"CPU": 0.0} | {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in pool})


def fate(actor: str) -> tuple[bool, str | None]:
    """Whether an actor is known to be dead, and on which node it was, if Ray has put it on one.

    A node that is cut off is not dead at once: Ray waits some fifteen seconds for it.
    """
    known = ray._private.state.actors(actor)  # the public way needs the dashboard
    return not known or known["State"] == "DEAD", (known and known["Address"]["NodeID"]) or None


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
