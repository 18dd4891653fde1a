"""In which words what a confirmation has found is told to a tracker: metrics and tags of a run.

Knows confirmations, nothing of MLflow.
"""

import time
from collections.abc import Mapping

from search.confirmation.record import Confirmation, Contender
from search.tracking.tracker import Row, key_of, milliseconds


def confirmed_rows(contender: Contender, held: Mapping[str, float]) -> list[Row]:
    """What a tracker lacks of a contender's means, with `_low` and `_high`, and costs.

    What is measured on test data keeps its name. What the search has measured too is told as `confirmed_NAME`.

    Args:
        held: the last value of each metric that the tracker has.
    """
    values: dict[str, float] = {}
    for name, interval in contender.summary.items():
        told = name if name.startswith("test_") else f"confirmed_{name}"
        values |= {told: interval.mean, f"{told}_low": interval.low, f"{told}_high": interval.high}
    values |= {f"confirmed_{name}": value for name, value in contender.costs.items()}
    now, rows = milliseconds(time.time()), {key_of(name): value for name, value in values.items()}
    return [Row(key, value, now, 0) for key, value in rows.items() if held.get(key) != value]


def confirmed_tags(contender: Contender, confirmation: Confirmation) -> dict[str, str]:
    """What to filter by: `confirmed`, and on what it rests."""
    return {
        "confirmed": "true",
        "verdict": contender.verdict,
        "confirmed.seeds": str(len(contender.retrainings)),
        "confirmed.trained_on": confirmation.trained_on,
    }
