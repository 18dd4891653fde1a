"""Surrogate: what a network will come to after full training, learnt from trainings of every length.

A Gaussian process over networks and fidelities of scikit-learn:

    y(x, f) = a(f) g(x) + f d(x) + e,    a(f) = 1 + (rho - 1) f

f in [0, 1] is the fidelity between the first rung and full training, on a logarithmic scale; g what a short training
shows, d what more of it changes, e noise; g and d are each a linear trend in shares and costs plus a Matern 5/2 process
over everything. With two rungs this is the autoregressive model of Kennedy and O'Hagan (doi:10.1093/biomet/87.1.1).

n measurements, m candidates, D columns of the encoding. Values are to be minimised.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, final

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Hyperparameter, Kernel, Matern, WhiteKernel

from search.pareto import Floats

FIT = 200  # measurements that hyperparameters are learnt from; a fit takes a second at most
MOST = 600  # measurements that predictions go by; a proposal among 10,000 takes half a second then
CAP = 2.0  # deviations above the median beyond which a value is only known to be bad
ENOUGH, HONEST = 10, (0.4, 1.5)  # measurements by which deviations are corrected, and how far


@final
class Columns(Kernel):  # type: ignore[misc]  # scikit-learn is not typed
    """A kernel of some columns, from `start` to before `stop`."""

    def __init__(self, kernel: Kernel, start: int, stop: int):
        self.kernel, self.start, self.stop = kernel, start, stop

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        own = {"kernel": self.kernel, "start": self.start, "stop": self.stop}
        return own | ({f"kernel__{k}": v for k, v in self.kernel.get_params().items()} if deep else {})

    @property
    def hyperparameters(self) -> list[Hyperparameter]:
        return [
            Hyperparameter(f"kernel__{h.name}", h.value_type, h.bounds, h.n_elements)
            for h in self.kernel.hyperparameters
        ]

    @property
    def theta(self) -> Floats:
        return np.asarray(self.kernel.theta)

    @theta.setter
    def theta(self, theta: Floats) -> None:
        self.kernel.theta = theta

    @property
    def bounds(self) -> Floats:
        return np.asarray(self.kernel.bounds)

    def __call__(self, X: Floats, Y: Floats | None = None, eval_gradient: bool = False) -> Any:  # noqa: N803
        other = None if Y is None else Y[:, self.start : self.stop]
        return self.kernel(X[:, self.start : self.stop], other, eval_gradient)

    def diag(self, X: Floats) -> Floats:  # noqa: N803
        return np.asarray(self.kernel.diag(X[:, self.start : self.stop]))

    def is_stationary(self) -> bool:
        return bool(self.kernel.is_stationary())


@final
class Fade(Kernel):  # type: ignore[misc]
    """a(f) a(f') of one column, the fidelity: how much of g is left after full training is learnt as `rho`."""

    def __init__(self, rho: float = 0.7, rho_bounds: tuple[float, float] = (0.3, 1.2)):
        self.rho, self.rho_bounds = rho, rho_bounds

    @property
    def hyperparameter_rho(self) -> Hyperparameter:
        return Hyperparameter("rho", "numeric", self.rho_bounds)

    def factor(self, f: Floats) -> Floats:
        return 1 + f * (self.rho - 1)

    def __call__(self, X: Floats, Y: Floats | None = None, eval_gradient: bool = False) -> Any:  # noqa: N803
        one = self.factor(X[:, 0])
        value = np.outer(one, one if Y is None else self.factor(Y[:, 0]))
        if not eval_gradient:
            return value
        slope = self.rho * (np.outer(X[:, 0], one) + np.outer(one, X[:, 0]))  # with respect to log rho
        return value, slope[:, :, None]

    def diag(self, X: Floats) -> Floats:  # noqa: N803
        return self.factor(X[:, 0]) ** 2

    def is_stationary(self) -> bool:
        return False


class Moments(NamedTuple):
    """What is believed of m candidates, in warped values.

    Attributes:
        mean, deviation: of the value after full training.
        told: deviation of what the next measurement will make of that mean.
        left: deviation of the value that is left then.
    """

    mean: Floats
    deviation: Floats
    told: Floats
    left: Floats


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Values to be minimised -> warped ones, in which the process is stationary: log(value - floor), capped, scaled.

    Differences among the good count more than among the bad, and how bad the worst are hardly at all.
    """

    floor: float
    cap: float
    mean: float
    scale: float

    @classmethod
    def of(cls, values: Floats) -> Self:
        """The floor is as far below the best as that is below the median."""
        best, median = float(values.min()), float(np.median(values))
        floor = best - max(median - best, 1e-9 * (1 + abs(best)))
        logs = np.log(values - floor)
        middle = float(np.median(logs))
        spread = 1.4826 * float(np.median(np.abs(logs - middle)))  # the deviation, where they are normal
        cap = middle + CAP * (spread or float(logs.std()) or 1.0)
        logs = np.minimum(logs, cap)
        return cls(floor=floor, cap=cap, mean=float(logs.mean()), scale=float(logs.std()) or 1.0)

    def __call__(self, values: Floats) -> Floats:
        """Below the floor is as if just above it."""
        logs = np.log(np.maximum(values - self.floor, 1e-9 * (1 + abs(self.floor))))
        return (np.minimum(logs, self.cap) - self.mean) / self.scale

    def back(self, warped: Floats) -> Floats:
        return self.floor + np.exp(self.mean + self.scale * warped)


def kernel(places: int, columns: int) -> Kernel:
    """Over rows of the encoding with the fidelity as one column more. Bounds and starts are in deviations of y.

    Distances are scaled so that two networks are 5 apart in the median (`Encoding`); lengths are from 0.4 to 4 of that.
    Shorter ones are what the likelihood finds where the first few values say nothing, and then nothing is ever learnt.
    """

    def trend(start: float, low: float, high: float) -> Kernel:
        return ConstantKernel(start, (low, high)) * Columns(DotProduct(1e-3, "fixed"), places, columns)

    def process(start: float, low: float, high: float) -> Kernel:
        return ConstantKernel(start, (low, high)) * Columns(Matern(4.0, (2.0, 20.0), nu=2.5), 0, columns)

    short = trend(0.3, 1e-3, 10.0) + process(0.5, 1e-2, 10.0)
    more = ConstantKernel(1.0, (1e-2, 10.0)) + trend(0.02, 1e-5, 0.1) + process(0.02, 3e-3, 0.3)
    faded = Columns(Fade(), columns, columns + 1) * short
    grown = Columns(DotProduct(1e-3, "fixed"), columns, columns + 1) * more
    return faded + grown + WhiteKernel(0.01, (3e-3, 0.3))


@final
class Surrogate:
    """Conditioned on what was measured.

    Args:
        theta: hyperparameters, from `learnt`.
        rows: (n, D).
        fidelity: (n,), in [0, 1].
        values: (n,), warped.
        full: the fidelity of full training: 1, or 0 where there is no shorter one.
        honesty: by how much deviations are too small, before full training and at it; found out without.
    """

    def __init__(
        self,
        theta: Floats,
        places: int,
        rows: Floats,
        fidelity: Floats,
        values: Floats,
        full: float = 1.0,
        honesty: tuple[float, float] | None = None,
    ):
        self._made_by, self._full = (theta, places), full
        fitted = kernel(places, rows.shape[1]).clone_with_theta(theta)
        self._fade, self._short = fitted.k1.k1.k1.kernel, fitted.k1.k1.k2
        self._more, self._noise = fitted.k1.k2.k2, fitted.k2.noise_level
        self._rows, self._fidelity, self._values = rows, fidelity, values
        between = self._between(self._short(rows), self._more(rows), fidelity[:, None], fidelity)
        self._factor = np.linalg.cholesky(between + self._noise * np.eye(len(rows)))
        half = solve_triangular(self._factor, values, lower=True)
        self._weights = solve_triangular(self._factor, half, lower=True, trans="T")
        self._honesty = honesty or self._calibrated()

    def _calibrated(self) -> tuple[float, float]:
        """By how much deviations are too small, before full training and at it.

        What each of the newer half of the measurements is off by when it is left out (Rasmussen and Williams 2006,
        equations 5.10 to 5.12), in deviations; a process that is smoother among the good than among the bad has
        learnt deviations from both.
        """
        inverse = solve_triangular(self._factor, np.eye(len(self._rows)), lower=True)
        off = self._weights / np.sqrt((inverse**2).sum(axis=0))
        newer = np.arange(len(off)) >= len(off) // 2
        parts = (newer & (self._fidelity < self._full), self._fidelity >= self._full)
        early, late = (
            float(np.clip(np.sqrt(np.mean(off[part] ** 2)), *HONEST)) if part.sum() >= ENOUGH else 1.0 for part in parts
        )
        return early, late

    def _between(self, short: Floats, more: Floats, one: Floats, two: Floats) -> Floats:
        return np.asarray(self._fade.factor(one) * self._fade.factor(two) * short + one * two * more)

    def mean(self, rows: Floats, fidelity: Floats) -> Floats:
        """(m,) expected values at fidelities (m,)."""
        short, more = self._short(rows, self._rows), self._more(rows, self._rows)
        return np.asarray(self._between(short, more, fidelity[:, None], self._fidelity) @ self._weights)

    def believing(self, rows: Floats, fidelity: Floats) -> "Surrogate":
        """As if trainings under way had come to what is expected of them there (kriging believer)."""
        if not len(rows):
            return self
        values = np.concatenate([self._values, self.mean(rows, fidelity)])
        rows, fidelity = np.vstack([self._rows, rows]), np.concatenate([self._fidelity, fidelity])
        return Surrogate(*self._made_by, rows, fidelity, values, self._full, self._honesty)

    def moments(self, rows: Floats, ahead: Floats) -> Moments:
        """
        Args:
            rows: (m, D).
            ahead: (m,) the fidelities of the next measurement of each.
        """
        short, more = self._short(rows, self._rows), self._more(rows, self._rows)
        full = np.full_like(ahead, self._full)
        at_full = self._between(short, more, full[:, None], self._fidelity)
        at_next = self._between(short, more, ahead[:, None], self._fidelity)
        solved_full = solve_triangular(self._factor, at_full.T, lower=True, check_finite=False)
        solved_next = solve_triangular(self._factor, at_next.T, lower=True, check_finite=False)
        own_short, own_more = self._short.diag(rows), self._more.diag(rows)
        variance = np.maximum(self._between(own_short, own_more, full, full) - (solved_full**2).sum(0), 1e-9)
        at_ahead = self._between(own_short, own_more, ahead, ahead) - (solved_next**2).sum(0)
        shared = self._between(own_short, own_more, full, ahead) - (solved_full * solved_next).sum(0)
        explained = np.clip(shared**2 / (np.maximum(at_ahead, 0.0) + self._noise), 0.0, variance)
        early, late = self._honesty
        told = np.where(ahead >= self._full, late, early) * np.sqrt(explained)
        left = late * np.sqrt(variance - explained)
        return Moments(at_full @ self._weights, np.hypot(told, left), told, left)


def learnt(places: int, rows: Floats, fidelity: Floats, values: Floats) -> Floats:
    """Hyperparameters of greatest likelihood for these measurements, from the same start always."""
    start = kernel(places, rows.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of bounds that are reached, as they may be
        process = GaussianProcessRegressor(start).fit(np.column_stack([rows, fidelity]), values)
    return np.asarray(process.kernel_.theta)
