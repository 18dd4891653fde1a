"""Proposals: the study's assignments, handed to Tune as long as there is room, and taken back from what is gone.

The policy of faults is in `search.workers.faults`, the arithmetic of room in `search.workers.pools`.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from search.study.study import Study
from search.study.work import Idle
from search.workers.cluster import Share, fate
from search.workers.faults import HOPELESS, Deaths
from search.workers.pools import devices
from search.workers.scheduler import ASSIGNMENT, CLAIM, MEASUREMENT, NODE, ParetoHalving
from spaces import InputError

REQUEST = "request"  # key of Tune's config: what is asked of Ray
PATIENCE_S = 1.0  # in which the driver looks for a proposal that can be trained before it hears the workers again


def asked_for(config: dict[str, Any]) -> Any:
    """What Tune is to ask Ray for, for one trial; actors are kept for trials that ask for the same."""
    return config[REQUEST]


@dataclass(kw_only=True)
class _Placed:
    """A trial handed to Tune.

    Attributes:
        avoided: the nodes it must not come to.
        started: it has come to one.
    """

    number: int
    pool: int
    avoided: frozenset[str]
    started: bool = False


class Proposals(Searcher):  # type: ignore[misc]  # ray is not typed
    """Gives Tune the study's assignments, as many as there is room for; takes back those whose worker died."""

    def __init__(self, study: Study, share: Share, interrupted: threading.Event, say: Callable[[str], None]):
        super().__init__()
        self.scheduler = ParetoHalving(study)
        self.over: Idle | None = None
        self._study, self._share, self._interrupted, self._say = study, share, interrupted, say
        self._live: dict[str, _Placed] = {}
        self._fallen: set[int] = set()  # whose worker failed, until it is known to be gone
        self._deaths = Deaths()
        self._waiting = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        self._bury()
        self._share.wish(len(self._live) + self._study.remaining)
        room = self._room(self._deaths.avoided)
        taken = Counter(placed.pool for placed in self._live.values())
        pool = next((pool for pool, most in enumerate(room) if taken[pool] < most), None)
        self._look_at_waiting(room)
        if pool is None:
            return None
        needs = self._share.pools[pool]
        work = self._study.next(PATIENCE_S, devices=devices(needs))
        if work is Idle.LATER or (isinstance(work, Idle) and (self._live or self._fallen)):
            return None  # one that runs may be given back
        if isinstance(work, Idle):
            self.over = work
            return str(Searcher.FINISHED)
        avoided = self._deaths.shunned(work.number) & self._share.nodes().keys()
        if not self._share.room(avoided)[pool]:
            avoided = frozenset()
        self._live[trial_id] = _Placed(number=work.number, pool=pool, avoided=avoided)
        return {
            ASSIGNMENT: work,
            REQUEST: self._share.request(pool, avoided),
            CLAIM: self._share.claim(),
            "cpus": needs["CPU"],
            "devices": devices(needs),
        }

    def _room(self, avoided: Collection[str]) -> list[int]:
        """Trials of each pool that there is room for, on nodes to be avoided only where there are no others."""
        room = self._share.room(avoided)
        return room if sum(room) else self._share.room()

    def _look_at_waiting(self, room: list[int]) -> None:
        """Takes back what waits for nodes that are gone; says so where there are none left at all."""
        for trial_id, placed in self._live.items():
            if not placed.started and not self._share.room(placed.avoided)[placed.pool]:
                self.scheduler.stranded.add(trial_id)
        waiting = sum(room) == 0
        if waiting and not self._waiting:
            self._say("no node that is up has what a trial needs; waiting for one to come")
        self._waiting = waiting

    def started(self, trial_id: str) -> None:
        """A worker is there, and begins."""
        self._live[trial_id].started = True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if MEASUREMENT in result and result[MEASUREMENT].values and trial_id in self._live:
            self._deaths.reached(self._live[trial_id].number, result[NODE])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result is not None:
            self.on_trial_result(trial_id, result)
        placed = self._live.pop(trial_id, None)
        if placed is None:
            return
        if error:
            self._fallen.add(placed.number)
        elif trial_id in self.scheduler.stranded:
            self.scheduler.stranded.discard(trial_id)
            self._study.give_back(placed.number)

    def _bury(self) -> None:
        """Settles what becomes of trials whose workers are gone.

        Raises:
            InputError: no worker has ever come to work, on any node.
        """
        for number in tuple(self._fallen):
            fault = self.scheduler.faults[number]
            gone, node = fate(fault.actor) if fault.actor else (True, None)
            if not gone:
                continue  # it may still write to its checkpoint
            self._fallen.discard(number)
            nodes = self._share.look()
            lost = node is not None and node not in nodes
            over = self._deaths.lost(number) if lost else self._deaths.died(number, node)
            if over:
                self._study.fail(number, f"{fault.reason}; {over}")
            else:
                self._study.give_back(number)
            able = [known for known in nodes if sum(self._share.room(nodes.keys() - {known}))]
            if not self.scheduler.heard and self._deaths.total >= HOPELESS and self._deaths.everywhere(able):
                raise InputError(f"no worker came as far as a measurement; the last: {fault.reason}")
            for bad in self._deaths.condemned(able):
                self._say(f"node {bad[:12]} gets no more trials while there are others: {fault.reason}")

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the memory."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
