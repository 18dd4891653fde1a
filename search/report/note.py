"""The description of a search in Markdown, for its run in MLflow: how it stands, how to choose, what to type.

Knows the story of a search, nothing of where the text goes but how much of it is taken there.
"""

import re
from collections.abc import Sequence

from search.report.story import Story
from search.report.tables import Cell, Links, Table, confirmation_table, front_table
from search.report.words import advice, standing

NO_ADDRESS = re.compile(r"[^\w#/:.?=&%-]")


def note(story: Story, links: Links, most: int) -> str:
    """Markdown of at most `most` characters; a front that is too long for it is cut, and that is said."""
    front, confirmation = story.front, story.confirmation
    above = f"{plain(standing(story))}\n\n{plain(advice(story))}\n"
    if confirmation is not None:
        table = confirmation_table(confirmation, front, links)
        said = (
            f"{len(confirmation.seeds)} seeds, trained on {confirmation.trained_on}, {confirmation.images} test images"
        )
        above += f"\n### Confirmed\n\n{plain(said)}\n\n{_lines(table, most // 2)}\n"
    if not front.members:
        return above
    below = f"\n### Take one\n\n```\narchsearch pick {story.name} --id {front.members[0].network.id}\n```\n"
    space = most - len(above) - len(below) - len("\n### Front\n\n\n")
    return f"{above}\n### Front\n\n{_lines(front_table(front, links, inherits=bool(story.start)), space)}\n{below}"


def _lines(table: Table, space: int) -> str:
    """A table of at most so many characters."""
    lines = [_line([plain(name) for name in table.head]), _line(["---"] * len(table.head))]
    left = space - sum(len(line) + 1 for line in lines)
    for number, row in enumerate(table.rows):
        line = _line([_cell(cell) for cell in row])
        more = f"\nand {len(table.rows) - number} more, which the pages beside this description show"
        enough = left - len(line) - 1 >= (0 if number == len(table.rows) - 1 else len(more) + 1)
        if not enough:
            return "\n".join([*lines, more])
        lines.append(line)
        left -= len(line) + 1
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    text = plain(cell.text)
    return text if cell.link is None else f"[{text}]({NO_ADDRESS.sub('', cell.link)})"


def plain(text: str) -> str:
    """Text in which Markdown and HTML find nothing to act on."""
    return re.sub(r"([\\`*\[\]<>|&~$])", r"\\\1", " ".join(text.split()))
