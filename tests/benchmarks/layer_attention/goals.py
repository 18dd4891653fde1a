"""What the numbers come to: a row an arm, and of each goal whether it is reached. Knows numbers only.

Overhead is the time of a step less that of the plain network's in the same round.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.benchmarks.layer_attention.accuracy import paired
from tests.benchmarks.layer_attention.arms import MATCHED, NAIVE

REACHED, SHORT, OPEN = "reached", "falls short", "not measured"
DEEP = (56, 110)
LEAST_SEEDS = 5
OVERHEAD, EQUAL, SLACK, TRAINING, POINTS = 1 / 3, 1e-5, 0.1, 0.7, 0.5

Row = dict[str, Any]
Goal = dict[str, Any]


def summary(steps: Mapping[str, Mapping[str, Row]], trainings: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """By depth and arm: what was measured of its steps, and of its trainings lists over seeds and medians."""
    depths: dict[str, dict[str, Row]] = {
        depth: {arm: dict(row) for arm, row in of.items()} for depth, of in steps.items()
    }
    places = dict.fromkeys((str(row["depth"]), row["arm"]) for row in trainings)
    for depth, arm in places:
        mine = [row for row in trainings if (str(row["depth"]), row["arm"]) == (depth, arm)]
        mine.sort(key=lambda row: row["seed"])
        shares = [row["skipped_share"] for row in mine]
        entry = depths.setdefault(depth, {}).setdefault(arm, {"skipped_share": statistics.fmean(shares)})
        entry |= {
            "seeds": [row["seed"] for row in mine],
            "accuracy": [row["accuracy"] for row in mine],
            "train_seconds": statistics.median(row["train_seconds"] for row in mine),
            "train_seconds_each": [row["train_seconds"] for row in mine],
            "trained_skipped_shares": shares,
        }
    return depths


def goals(depths: Mapping[str, Mapping[str, Row]], trainings: Sequence[Row], images: int) -> list[Goal]:
    """Args: images: that accuracies were counted on."""
    return [
        *(goal for depth in DEEP for goal in _overhead(depth, depths.get(str(depth), {}))),
        *(_equal(depth, rows) for depth, rows in depths.items() if "train_step_ms" in rows.get("mrla_base", {})),
        *(goal for depth in DEEP for goal in _skipping(depth, depths.get(str(depth), {}))),
        *(_time_alone(depth, depths.get(str(depth), {})) for depth in DEEP),
        *_by_depth(trainings, lambda depth, rows: _training(depth, rows, images)),
        *_by_depth(trainings, lambda depth, rows: _rules(depth, rows, images)),
    ]


def _goal(name: str, depth: int | str, verdict: bool | None, numbers: str) -> Goal:
    word = OPEN if verdict is None else REACHED if verdict else SHORT
    return {"goal": name, "depth": int(depth), "verdict": word, "numbers": numbers}


def _median(row: Row) -> float:
    """Of the overhead, in milliseconds."""
    middle: float = row["overhead_ms"][1]
    return middle


def _overhead(depth: int, rows: Mapping[str, Row]) -> Iterator[Goal]:
    name = f"overhead of mrla_base at most {OVERHEAD:.2f} of the naive form's"
    ours, naive = rows.get("mrla_base", {}), rows.get(NAIVE, {})
    if "overhead_ms" not in ours or "overhead_ms" not in naive:
        yield _goal(name, depth, None, "no step times")
        return
    share = _median(ours) / _median(naive)
    yield _goal(name, depth, share <= OVERHEAD, f"{_median(ours):.1f} of {_median(naive):.1f} ms: {share:.2f}")


def _equal(depth: str, rows: Mapping[str, Row]) -> Goal:
    row = rows["mrla_base"]
    found, exact = row["max_abs_difference"], row["max_abs_differences"]["double"]
    numbers = (
        f"largest difference {found:.1e} of logits up to {row['largest_logit']:.1f}, {exact:.1e} in double precision"
    )
    return _goal(f"outputs equal to {EQUAL:g}", depth, found <= EQUAL, numbers)


def _skipping(depth: int, rows: Mapping[str, Row]) -> Iterator[Goal]:
    name = f"overhead of ela at most (1 - skipped share + {SLACK:g}) of mrla_base's"
    by_share = rows.get("ela", {}).get("by_share")
    if not by_share:
        yield _goal(name, depth, None, "no step times of ela")
        return
    for row in by_share.values():
        share, allowed = _median(row) / _median(rows["mrla_base"]), 1 - row["skipped_share"] + SLACK
        numbers = f"{row['skipped_share']:.2f} skipped: {share:.2f}, allowed {allowed:.2f}"
        yield _goal(name, depth, share <= allowed, numbers)


def _time_alone(depth: int, rows: Mapping[str, Row]) -> Goal:
    """At the depths whose trainings take a GPU."""
    name = f"ela's step at most {TRAINING:g} of the naive form's time (whatever the accuracy)"
    ela, naive = rows.get("ela", {}), rows.get(NAIVE, {})
    if "train_step_ms" not in ela or "train_step_ms" not in naive:
        return _goal(name, depth, None, "no step times")
    ratio = ela["train_step_ms"] / naive["train_step_ms"]
    numbers = f"{ratio:.2f}, {ela['skipped_share']:.2f} skipped ({ela.get('share_is', 'nothing can be')})"
    return _goal(name, depth, ratio <= TRAINING, numbers)


def _by_depth(trainings: Sequence[Row], judge: Callable[[int, list[Row]], Iterator[Goal]]) -> Iterator[Goal]:
    for depth in sorted({row["depth"] for row in trainings}) or DEEP[:1]:
        yield from judge(depth, [row for row in trainings if row["depth"] == depth])


def _training(depth: int, rows: list[Row], images: int) -> Iterator[Goal]:
    name = f"ela's training at most {TRAINING:g} of the naive form's time, at most {POINTS:g} points below mrla_base"
    timed = [row for row in rows if "diverged" not in row]  # of which not all epochs were trained
    ela, naive = ({row["seed"]: row for row in timed if row["arm"] == arm} for arm in ("ela", NAIVE))
    found, seeds = paired(rows, "ela", "mrla_base", images), sorted(ela.keys() & naive.keys())
    if found is None or not seeds:
        yield _goal(name, depth, None, "no trainings of ela, mrla_base and the naive form")
        return
    ratio = statistics.median(ela[seed]["train_seconds"] / naive[seed]["train_seconds"] for seed in seeds)
    skipped = statistics.fmean(row["skipped_share"] for row in ela.values())
    numbers = f"{ratio:.2f} of the time (n = {len(seeds)}), {_points(found)}, {skipped:.2f} skipped"
    if not skipped:
        numbers += " (nothing was: this says nothing about skipping)"
    enough = found["n"] >= LEAST_SEEDS
    yield _goal(name, depth, (ratio <= TRAINING and found["points"] >= -POINTS) if enough else None, numbers)


def _rules(depth: int, rows: list[Row], images: int) -> Iterator[Goal]:
    for rule in MATCHED:
        name = f"the beta quantile at least as accurate as {rule} at the same ratio"
        there = any(row["arm"] == rule for row in rows)
        found = paired([row for row in rows if row["arm"] != rule or "same_network_as" not in row], "ela", rule, images)
        if found is None:
            why = "nothing was skipped: all rules are one network" if there else "no trainings of both"
            yield _goal(name, depth, None, why)
            continue
        enough, chance = found["n"] >= LEAST_SEEDS, found["low"] <= 0 <= found["high"]
        numbers = _points(found) + (", which chance explains" if enough and chance else "")
        yield _goal(name, depth, found["points"] >= 0 if enough else None, numbers)


def _points(found: Row) -> str:
    spread = f" [{found['low']:+.2f}, {found['high']:+.2f}]" if found["n"] > 1 else ""
    return f"{found['points']:+.2f} points{spread}, n = {found['n']}"


COLUMNS = ("step ms", "quartiles", "x plain", "peak MiB", "answer ms", "skipped", "training s", "accuracy %")


def table(depths: Mapping[str, Mapping[str, Row]]) -> str:
    lines = []
    for depth, rows in sorted(depths.items(), key=lambda item: int(item[0])):
        lines += [f"\ndepth {depth}", f"{'':20}" + "".join(f"{name:>17}" for name in COLUMNS)]
        for arm, row in rows.items():
            lines.append(_line(arm, row))
            by_share = row.get("by_share", {})
            lines += [_line(f"  skipping {each['skipped_share']:.2f}", each) for each in by_share.values()]
    return "\n".join(lines)


def _line(arm: str, row: Row) -> str:
    cells = [""] * len(COLUMNS)
    if "train_step_ms" in row:
        low, high = row["train_step_quartiles_ms"]
        cells[:3] = f"{row['train_step_ms']:.1f}", f"{low:.1f}-{high:.1f}", f"{row['ratio_to_plain'][1]:.2f}"
        cells[3] = f"{row['peak_bytes'] / 2**20:.0f}"
        cells[4] = " / ".join(f"{value:.1f}" for value in row["latency_ms"].values())
    cells[5] = f"{row['skipped_share']:.2f}"
    if "accuracy" in row:
        cells[6] = f"{row['train_seconds']:.1f}"
        spread = statistics.stdev(row["accuracy"]) if len(row["accuracy"]) > 1 else 0.0
        cells[7] = f"{100 * statistics.fmean(row['accuracy']):.2f} +- {100 * spread:.2f}"
    return (f"{arm:20}" + "".join(f"{cell:>17}" for cell in cells)).rstrip()
