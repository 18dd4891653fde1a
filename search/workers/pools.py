"""Pools: what a trial gets of a node, and how many trials nodes have room for.

Arithmetic on names and amounts of resources, as Ray has them; knows nothing of Ray itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spaces import InputError

GIB = 2**30
NAMES = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}  # ours to Ray's; any other resource has its own name
UNITS = 10_000  # Ray counts resources in ten-thousandths


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one training gets; None is decided by the cluster: a GPU each where there are any, else a core.

    Attributes:
        gpus: a fraction shares one.
        memory: GiB.
        pools: ways to give a trial what it needs, the preferred one first, each by Ray's names and in Ray's units;
            where there are any, the others are None.
    """

    cpus: float | None = None
    gpus: float | None = None
    memory: float | None = None
    pools: tuple[Mapping[str, float], ...] = ()

    @classmethod
    def asked(
        cls,
        *,
        cpus: float | None = None,
        gpus: float | None = None,
        memory: float | None = None,
        pools: Sequence[str] = (),
    ) -> "Resources":
        """Takes what a user says; each of `pools` reads like `gpu=1,cpu=4`.

        Raises:
            InputError: it cannot be understood, or is no amount.
        """
        flags = (("--cpus-per-trial", cpus, 1), ("--gpus-per-trial", gpus, 0), ("--memory-per-trial", memory, 0))
        for flag, given, least in flags:
            if given is not None and not least <= given < math.inf:
                raise InputError(f"{flag} {given} is not a number from {least}")
            if given is not None and pools:
                raise InputError(f"{flag} beside --pool: each --pool says all that its trials get; leave {flag} out")
        return cls(cpus=cpus, gpus=gpus, memory=memory, pools=tuple(pool(text) for text in pools))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody else has of a node for as long as a search lasts: no trial finds room in it.

    Attributes:
        node: by its id.
        needs: amounts, by Ray's names.
        cores: of its machine, by their numbers; empty where they are not told apart.
    """

    node: str
    needs: Mapping[str, float]
    cores: frozenset[int] = frozenset()


def pool(text: str) -> dict[str, float]:
    """Reads `gpu=1,cpu=4`: names and amounts, memory in GiB; 1 CPU where none is named.

    Raises:
        InputError: something else was given.
    """
    needs: dict[str, float] = {}
    for part in text.split(","):
        name, equals, amount = (piece.strip() for piece in part.partition("="))
        try:
            number = float(amount)
        except ValueError:
            number = math.nan
        if not name or not equals or not 0 <= number < math.inf:
            raise InputError(
                f"--pool {text}: {part.strip()!r} is not NAME=AMOUNT; for example gpu=1,cpu=4 or cpu=8,memory=16 (GiB)"
            )
        known = NAMES.get(name.lower(), name)
        if known in needs:
            raise InputError(f"--pool {text}: {name} is there twice")
        needs[known] = number * GIB if known == "memory" else number
    needs.setdefault("CPU", 1.0)
    return checked(needs)


def checked(needs: Mapping[str, float]) -> dict[str, float]:
    """What Ray can give to a trial.

    Raises:
        InputError: no CPU, or a part of several GPUs.
    """
    cpus, gpus = needs["CPU"], needs.get("GPU", 0.0)
    if cpus <= 0:
        raise InputError(f"a trial needs more than 0 CPUs, not {cpus:g}")
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise InputError(f"{gpus:g} GPUs for a trial: allowed are a part of one, or a whole number")
    return {name: need for name, need in needs.items() if need > 0}


def room(pools: Sequence[Mapping[str, float]], nodes: Iterable[Mapping[str, float]]) -> list[int]:
    """How many trials of each pool the nodes hold at once: on each node the earlier pool first, then what is left."""
    held = [0] * len(pools)
    for node in nodes:
        left = {name: round(amount * UNITS) for name, amount in node.items()}
        for place, needs in enumerate(pools):
            units = {name: max(1, round(need * UNITS)) for name, need in needs.items()}
            fits = min(left.get(name, 0) // need for name, need in units.items())
            left |= {name: left.get(name, 0) - fits * need for name, need in units.items()}
            held[place] += fits
    return held


def left(nodes: Mapping[str, Mapping[str, float]], claim: Claim | None) -> dict[str, Mapping[str, float]]:
    """What the nodes, by their ids, have for trials."""
    if claim is None or claim.node not in nodes:
        return dict(nodes)
    rest = {name: amount - claim.needs.get(name, 0.0) for name, amount in nodes[claim.node].items()}
    return {**nodes, claim.node: rest}


def devices(needs: Mapping[str, float]) -> float:
    """What the device seconds of a training are counted by: its GPUs, or its cores where it gets none."""
    return needs.get("GPU") or needs["CPU"]


def told(needs: Mapping[str, float]) -> str:
    """As a user says it: `2 CPUs, 0.5 GPUs, 16 GiB of memory and 1 big`."""
    words = [f"{needs['CPU']:g} CPUs", f"{needs.get('GPU', 0.0):g} GPUs"]
    if "memory" in needs:
        words.append(f"{needs['memory'] / GIB:g} GiB of memory")
    words += [f"{need:g} {name}" for name, need in needs.items() if name not in NAMES.values()]
    return f"{', '.join(words[:-1])} and {words[-1]}"
