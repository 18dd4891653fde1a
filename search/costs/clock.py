"""A clock: what all costs that are measured have in common. Knows networks and input sizes, not what is run of them.

A run is repeated until the middle half of the times lies close together, or until a limit is reached. The time is the
median: it shrugs off what else a machine does for a moment. What a machine does all the time it cannot tell apart:
who wants steady times gives the process cores, or a GPU, of its own.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from search.costs.cost import InputSize, Reading
from spaces import InputError, SpaceError
from spaces.errors import unknown

DEVICES = ("cpu", "cuda")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Shares of the limit. Kernels are chosen, caches filled and clocks raised in the first runs: 0.25 s of 5. A spread of
# a few runs may be small by chance: 0.5 s of 5 are measured in any case.
_WARM_UP, _LEAST = 0.05, 0.1
_FEWEST = 4  # times that have quartiles
_BLOCK_S = 0.01  # runs are timed together for so long: to wait for a GPU takes a thousandth of it


def clocked(
    run: Callable[[], object],
    *,
    wait: Callable[[], object] = lambda: None,
    spread: float = 0.05,
    limit_s: float = 5.0,
) -> Reading:
    """Median seconds of a run, after some that do not count.

    By hand: to import `torch.utils.benchmark` looks for GPUs, in workers before they know which are theirs.

    Args:
        run: short ones are measured many at a time, one after the other.
        wait: until all that runs have begun is done.
        spread: repeated until the interquartile range is less than this share of the median ...
        limit_s: ... or so many seconds have been measured; it is then unsteady.
    """

    def timed(number: int) -> float:
        wait()
        began = time.perf_counter()
        for _ in range(number):
            run()
        wait()
        return time.perf_counter() - began

    warm = last = timed(1)
    while warm < _WARM_UP * limit_s:
        last = timed(1)
        warm += last
    number, times = math.ceil(_BLOCK_S / last), list[float]()
    while True:
        times.append(timed(number) / number)
        reading, total = reading_of(times, spread), number * sum(times)
        if (reading.steady and total >= _LEAST * limit_s) or total >= limit_s:
            return reading


def reading_of(times: Sequence[float], spread: float) -> Reading:
    """Their median; steady where they are enough, and their interquartile range less than this share of it."""
    low, median, high = (float(value) for value in np.quantile(times, (0.25, 0.5, 0.75)))
    share = (high - low) / median
    return Reading(value=median, spread=share, steady=len(times) >= _FEWEST and share < spread)


@dataclass(frozen=True, kw_only=True)
class Timed(ABC):
    """A cost that is measured; a `Cost`.

    Whatever the network is and wherever: a copy of it is measured, in a fresh state of the random numbers, and the
    threads, random numbers and gradient mode of this process are afterwards what they were.

    Attributes:
        batch: images at once, of normally distributed numbers, always the same.
        device: `cpu`, or `cuda`, the first GPU that this process sees.
        image_size: side of the images in pixels; None: that of the call.
        dtype: `float32`, `bfloat16` or `float16`.
        threads: of the CPU.
        spread, limit_s: as of `clocked`.

    Raises:
        InputError: a setting that does not exist.
    """

    name: str
    batch: int
    device: str = "cpu"
    image_size: int | None = None
    dtype: str = "float32"
    threads: int = 1
    spread: float = 0.05
    limit_s: float = 5.0

    def __post_init__(self) -> None:
        for what, given, allowed in (("device", self.device, DEVICES), ("dtype", self.dtype, DTYPES)):
            if given not in allowed:
                raise InputError(f"{self.name}: {unknown(what, given, allowed)}")
        for what in ("batch", "threads", "spread", "limit_s", "image_size"):
            value = getattr(self, what)
            if value is not None and value <= 0:
                raise InputError(f"{self.name}: {what} must be above 0, not {value}")

    @property
    def timed(self) -> bool:
        return True

    @abstractmethod
    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading: ...

    @abstractmethod
    def prepared(self, model: nn.Module, images: Tensor) -> Callable[[], object]:
        """What is measured. `images` `[batch, C, H, W]` are float32, on the device; `model` must not be changed."""

    def seconds(self, model: nn.Module, input_size: InputSize) -> Reading:
        """Of one run.

        Raises:
            InputError: this machine has no GPU and one is asked for, or something that it needs is not installed.
            SpaceError: this network does not run so; the message says why.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError(
                f"{self.name}: device is cuda and there is no GPU that PyTorch can use; say device: cpu, or measure on "
                "a machine with one"
            )
        channels, *size = input_size
        shape = (self.batch, channels, *(size if self.image_size is None else (self.image_size, self.image_size)))
        with self._apart(shape):
            images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            run = self.prepared(model, images.to(self.device))
            return clocked(run, wait=self.wait, spread=self.spread, limit_s=self.limit_s)

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def _apart(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Without a trace in this process; whatever a network raises becomes the reason why it cannot be measured."""
        gpus, threads = [torch.cuda.current_device()] if self.device == "cuda" else [], torch.get_num_threads()
        try:
            with torch.random.fork_rng(gpus):
                torch.set_num_threads(self.threads)
                yield
        except InputError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            images = "x".join(map(str, shape))
            raise SpaceError(
                f"{self.name}: it does not run on {images} {self.dtype} on {self.device}: {reason}"
            ) from error
        finally:
            torch.set_num_threads(threads)
