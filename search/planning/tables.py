"""Tables of what a plan finds, for people.

Knows forecasts, feasibility and estimates, nothing of how they are made, and no terminal.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from search.planning.feasibility import Feasibility
from search.planning.forecast import Extent, Forecast
from search.planning.hours import Estimate, Range
from search.planning.plan import Plan
from search.planning.timing import Proof, Step, Times
from search.report.points import shown


def tables(found: Plan) -> Iterator[Table]:
    """A plan, one table after the other."""
    yield costs_table(found.forecast)
    yield feasibility_table(found.feasibility)
    yield models_table(found.forecast)
    if found.forecast.effects:
        yield effects_table(found.forecast)
    yield proofs_table(found.proofs)
    if found.times:
        yield times_table(found.times)
    if found.estimate:
        yield steps_table(found.steps)
        yield hours_table(found.estimate)


def feasibility_table(found: Feasibility) -> Table:
    """What stands in the way, of how many architectures."""
    low, high = found.interval
    sure = "of the whole space" if found.whole else f"by chance; {low:.1%} to {high:.1%} with 95% confidence"
    table = _table(f"{found.share:.1%} feasible ({found.feasible:,} of {found.looked:,}, {sure})")
    table.add_column("limit")
    for column in ("stops", "alone"):
        table.add_column(column, justify="right")
    for binding in found.bindings:
        table.add_row(Text(binding.limit), f"{binding.violated:,}", f"{binding.alone:,}")
    return table


def costs_table(found: Forecast) -> Table:
    """Minimum, median and maximum of each cost, by backbone."""
    table = _table(f"{'' if found.exact else 'at most '}{found.size:,} architectures; of each cost min / median / max")
    table.add_column("backbone", no_wrap=True)
    table.add_column("counted", justify="right")
    for name in _names(found):
        table.add_column(name, justify="right")
    for backbone, costs in found.extents.items():
        cells = (_extent(costs[name]) if name in costs else "-" for name in _names(found))
        table.add_row(Text(backbone), f"{next(iter(costs.values())).count:,}", *cells)
    return table


def models_table(found: Forecast) -> Table:
    """The smallest model, the median one and the largest."""
    table = _table(f"by {found.by}")
    table.add_column("")
    table.add_column("architecture", overflow="fold")
    for name in _names(found):
        table.add_column(name, justify="right")
    for word, model in (("smallest", found.smallest), ("median", found.median), ("largest", found.largest)):
        table.add_row(
            word,
            Text(model.label),
            *(shown(model.costs[name]) if name in model.costs else "-" for name in _names(found)),
        )
    return table


def effects_table(found: Forecast) -> Table:
    """What each choice does to each cost."""
    table = _table("times the cost with the reference, everything else equal (medians)")
    for column in ("decision", "choice", "against"):
        table.add_column(column, overflow="fold")
    for name in _names(found):
        table.add_column(name, justify="right")
    table.add_column("pairs", justify="right")
    for effect in found.effects:
        words = [each if isinstance(each, str) else json.dumps(each) for each in (effect.choice, effect.reference)]
        ratios = (f"{effect.ratios[name]:.3g}" if name in effect.ratios else "-" for name in _names(found))
        table.add_row(Text(effect.parameter), *map(Text, words), *ratios, f"{effect.count:,}")
    return table


def proofs_table(found: Sequence[Proof]) -> Table:
    """That every backbone runs."""
    table = _table("each backbone as it is, built and run on a batch of the data")
    table.add_column("backbone", overflow="fold")
    for column in ("answer", "build", "run"):
        table.add_column(column, justify="right")
    for proof in found:
        shape = " x ".join(map(str, proof.shape))
        table.add_row(Text(proof.label), shape, f"{proof.build_s:.2f} s", f"{proof.run_s:.2f} s")
    return table


def times_table(found: Mapping[str, Times]) -> Table:
    """What was measured with a clock; all other numbers of these costs are predicted from that."""
    table = _table("costs by the clock, min / median / max; above, of others, as predicted: a search measures each")
    for column in ("cost", "measured", "networks", "unsteady", "refused", "predicted from them, held out", "feasible"):
        table.add_column(column, justify="left" if column == "cost" else "right")
    for name, times in found.items():
        held_out = "-" if times.kendall is None else f"Kendall {times.kendall:.2f}, error {times.error:.1%}"
        share = "-" if times.share is None else f"{times.share:.1%}"
        counts = (times.measured.count, times.unsteady, times.refused)
        table.add_row(Text(name), _extent(times.measured), *map(str, counts), held_out, share)
    return table


def steps_table(found: Sequence[Step]) -> Table:
    """Seconds of training steps."""
    table = _table(f"training steps of {found[0].batch} images")
    table.add_column("architecture", overflow="fold")
    for column in ("macs", "a step", "spread"):
        table.add_column(column, justify="right")
    for step in found:
        spread = f"{step.spread:.0%}{'' if step.steady else ' unsteady'}"
        table.add_row(Text(step.label), shown(step.macs), f"{1000 * step.seconds:.3g} ms", spread)
    return table


def hours_table(found: Estimate) -> Table:
    """What the search and the confirmation will take."""
    table = _table(f"estimate; the search ends by {found.ends.replace('_', ' ')}")
    table.add_column("")
    for column in ("least", "middle", "most"):
        table.add_column(column, justify="right")
    rows = {
        "trials": found.trials,
        "of them to the end": found.complete,
        "epochs": found.epochs,
        "members of the front": found.front,
    }
    spent = {
        "device hours": found.device_hours,
        **_parents(found),
        "on the clock": found.hours,
        f"device hours of {found.seeds} more trainings of each member": found.confirmation_device_hours,
    }
    for words, estimated in rows.items():
        table.add_row(words, *(shown(value) for value in (estimated.low, estimated.middle, estimated.high)))
    for words, estimated in spent.items():
        table.add_row(words, *(_time(hours) for hours in (estimated.low, estimated.middle, estimated.high)))
    return table


def _parents(found: Estimate) -> dict[str, Range]:
    """What of the hours goes into the backbones that trials start from; nothing where they start from none."""
    hours = found.parents_device_hours
    return {"  of them for parents": Range(low=hours, middle=hours, high=hours)} if hours else {}


def _names(found: Forecast) -> list[str]:
    """Every cost that any backbone has."""
    return list(dict.fromkeys(name for costs in found.extents.values() for name in costs))


def _extent(found: Extent) -> str:
    return " / ".join(map(shown, (found.min, found.median, found.max)))


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:.1f} h"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
