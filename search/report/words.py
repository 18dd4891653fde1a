"""What a report says of a search in sentences: how it stands, and how to choose. Knows records."""

from collections import Counter

from search.confirmation.record import Confirmation
from search.record import State
from search.report.points import shown, with_unit
from search.report.story import Story


def standing(story: Story) -> str:
    """How the search stands."""
    counts = Counter(record.state for record in story.records)
    trained = _listed(counts, (State.COMPLETE, State.STOPPED, State.FAILED, State.PAUSED, State.RUNNING))
    untrained = _listed(counts, (State.INFEASIBLE, State.DUPLICATE))
    sentences = [f"{sum(counts.values())} trials: {trained or 'none trained yet'}."]
    if untrained:
        sentences.append(f"Never trained: {untrained}.")
    if story.front.members:
        point = ", ".join(f"{with_unit(name)} {shown(value)}" for name, value in story.front.reference_point.items())
        sentences.append(
            f"The front has {_counted(len(story.front.members), 'member')}, "
            f"with a hypervolume of {shown(story.front.hypervolume)} up to {point}."
        )
    if story.start:
        start = story.start.replace("`", "")
        sentences.append(f"{start[0].upper()}{start[1:]}.")
    return " ".join(sentences)


def advice(story: Story) -> str:
    """How to choose, in one sentence."""
    if not story.front.members:
        return "There is nothing to choose from until a feasible training has run to its end."
    if story.confirmation is not None:
        return (
            "Choose by the confirmed test values: where two intervals overlap widely, or the verdict says that two "
            "are equal, take the cheaper one."
        )
    names = [with_unit(name) for name in story.front.objectives.names]
    if len(names) == 1:
        return f"The one member has the best {names[0]} of all complete trials."
    return (
        f"No other complete trial is better than a member of the front in {' and '.join(names)} at once: decide what "
        f"you can afford, take the best {names[0]} within it, and look at whether its cheaper neighbour loses much."
    )


def confirmed(confirmation: Confirmation) -> str:
    """What the numbers of a confirmation are."""
    seeds = _counted(len(confirmation.seeds), "training")
    between = ", in brackets where it lies with a confidence of 95%" if len(confirmation.seeds) > 1 else ""
    sentences = [
        f"Means of {seeds} each on {confirmation.trained_on}, the same seeds for all, tested on "
        f"{_counted(confirmation.images, 'image')}{between}.",
        f"Test accuracies within {shown(confirmation.margin)} of each other count as equal.",
        confirmation.gain,
        f"{_counted(len(confirmation.failures), 'training')} failed." if confirmation.failures else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _listed(counts: Counter[State], states: tuple[State, ...]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in states if counts[state])


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
