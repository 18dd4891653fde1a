"""The learning rate of a step, in closed form: there is no state to save, so a resumed run cannot differ."""

import math


def learning_rate(step: int, *, highest: float, warmup_steps: int, total_steps: int) -> float:
    """Linear from `highest / warmup_steps` up to `highest`, then half a cosine down to 0 (arXiv:1608.03983, eq. 5).

    Args:
        step: optimiser steps taken before this one, below `total_steps`.
    """
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return highest * 0.5 * (1 + math.cos(math.pi * progress))
