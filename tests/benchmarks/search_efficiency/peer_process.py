"""The other end of `peers`: one search by another system, asked and told in lines of JSON. Run as a file.

It needs that system and nothing of ours, so that it runs in an environment where only that is installed.

    argument:  {"method", "seed", "choices": operations by edge, "rungs": [low, high]}
    first:     {"version"}
    {"ask"} -> {"number", "chosen": operation by edge, "fidelity"}
    {"number", "fidelity", "error", "cost"} -> {"goes_on"}
"""

import json
import sys
from importlib.metadata import version
from typing import Any, Protocol

PACKAGES = {"syne-tune": "syne-tune", "neps": "neural-pipeline-search"}  # by the beginning of the methods' names


class Peer(Protocol):
    def ask(self) -> dict[str, Any]: ...

    def tell(self, told: dict[str, Any]) -> bool: ...


class SyneTune:
    """MO-ASHA: who is not among the best third at the lower rung is stopped for good when it comes there.

    It has no promotion of what was paused. Its rungs of 36 and 108 epochs see nothing, for nothing is reported there.
    Its default priority (0.15) gives the order of the trials where its rule wants the rank of each, so that a decision
    hardly depends on the trial that it is about; `-ranked` is the same order given as ranks.
    """

    def __init__(self, method: str, *, seed: int, choices: dict[str, list[str]], rungs: list[int]):
        import numpy as np  # noqa: PLC0415
        from syne_tune.backend.trial_status import Trial  # noqa: PLC0415
        from syne_tune.config_space import choice  # noqa: PLC0415
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA  # noqa: PLC0415
        from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import (  # noqa: PLC0415
            NonDominatedPriority,
        )

        class Ranked(NonDominatedPriority):
            def priority_unsafe(self, objectives: Any) -> Any:
                return np.argsort(super().priority_unsafe(objectives))

        np.random.seed(seed)  # what its configurations are drawn with
        self._trial, self._trials, self._lowest = Trial, [], rungs[0]
        self._scheduler = MOASHA(
            {edge: choice(operations) for edge, operations in choices.items()},
            metrics=["error", "cost"],
            time_attr="epoch",
            grace_period=rungs[0],
            max_t=rungs[-1],
            multiobjective_priority=Ranked() if method.endswith("-ranked") else None,
            random_seed=seed,
        )

    def ask(self) -> dict[str, Any]:
        config = self._scheduler.suggest().config
        trial = self._trial(trial_id=len(self._trials), config=config, creation_time=None)
        self._scheduler.on_trial_add(trial)
        self._trials.append(trial)
        return {"number": trial.trial_id, "chosen": config, "fidelity": self._lowest}

    def tell(self, told: dict[str, Any]) -> bool:
        trial = self._trials[told["number"]]
        result = {"epoch": told["fidelity"], "error": told["error"], "cost": told["cost"]}
        decision = self._scheduler.on_trial_result(trial, result)
        if decision != "CONTINUE":
            self._scheduler.on_trial_remove(trial)
        return decision == "CONTINUE"


class Neps:
    """An algorithm with its defaults; all of them promote what has waited.

    MO-ASHA (0.17) promotes the best as soon as three wait, so nearly all in the end. MO-Hyperband begins two at the
    higher rung for every three at the lower.

    NePS puts rungs at powers of the reduction, 3, below the highest: of 12 and 200 epochs it would make 22, 66 and
    200, which the table does not have. So it is told 1 for the lower rung and 3 for the higher. PriMO counts these
    until it ends its initial design of 6 full trainings, its default; 10 of its units are about as many epochs.
    """

    def __init__(self, method: str, *, seed: int, choices: dict[str, list[str]], rungs: list[int]):
        import logging  # noqa: PLC0415
        import random  # noqa: PLC0415

        import neps  # noqa: PLC0415
        import numpy as np  # noqa: PLC0415
        import torch  # noqa: PLC0415
        from neps.optimizers import algorithms  # noqa: PLC0415
        from neps.space.neps_spaces.neps_space import convert_neps_to_classic_search_space  # noqa: PLC0415

        logging.disable(logging.WARNING)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        parameters: dict[str, Any] = {edge: neps.Categorical(operations) for edge, operations in choices.items()}
        parameters["rung"] = neps.IntegerFidelity(1, 3)
        space = type("Space", (neps.PipelineSpace,), parameters)()
        self._choices, self._rungs = choices, {1: rungs[0], 3: rungs[-1]}
        classic = convert_neps_to_classic_search_space(space)
        made = {
            "neps-moasha": lambda: algorithms.moasha(classic),
            "neps-mohyperband": lambda: algorithms.mo_hyperband(classic),
            "neps-primo": lambda: algorithms.primo(classic, prior_centers={}, initial_design_size=10),
        }
        self._dialogue = neps.AskAndTell(made[method]())
        self._asked: list[str] = []

    def ask(self) -> dict[str, Any]:
        trial = self._dialogue.ask()
        self._asked.append(trial.id)
        chosen = {edge: trial.config[edge] for edge in self._choices}
        return {"number": len(self._asked) - 1, "chosen": chosen, "fidelity": self._rungs[trial.config["rung"]]}

    def tell(self, told: dict[str, Any]) -> bool:
        self._dialogue.tell(self._asked[told["number"]], {"objective_to_minimize": [told["error"], told["cost"]]})
        return False


def main() -> None:
    given, answers = json.loads(sys.argv[1]), sys.stdout
    sys.stdout = sys.stderr  # whatever the other system prints
    method = given.pop("method")
    family = next(family for family in PACKAGES if method.startswith(family))
    peer: Peer = (SyneTune if family == "syne-tune" else Neps)(method, **given)
    print(json.dumps({"version": version(PACKAGES[family])}), file=answers, flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        answer = peer.ask() if "ask" in told else {"goes_on": peer.tell(told)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
