"""Fits loss = L0 + A x^-a (y^-b ...), with the uncertainty its residuals leave. Numbers only; knows no models."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class PowerLaw:
    """loss = floor + scale * product over the factors of x ** -exponent.

    Attributes:
        exponents: factor -> (estimate, low, high), 95 % by Student's t of the points to spare.
        scale: A, the loss above the floor where every factor is 1.
        floor: L0, what no amount of the factors removes; None: the points do not carry one, and the law falls to 0.
        n: points it was fitted to.
        spare: points beyond parameters; with one, an interval is six times as wide as the spread suggests.
    """

    exponents: dict[str, tuple[float, float, float]]
    scale: float
    floor: float | None
    n: int
    spare: int
    _draws: np.ndarray = field(repr=False, compare=False)  # (1 + draws, parameters), the estimate first

    def interval(self, **factors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Loss at values of the factors, numbers or arrays, and its 95 % interval, supposing that the law holds there:
        (estimate, low, high)."""
        logs = np.stack(np.broadcast_arrays(*(np.log(factors[name]) for name in self.exponents)))
        with np.errstate(over="ignore"):
            losses = np.array([_loss(row, logs) for row in self._draws])
        return (losses[0], *np.percentile(losses[1:], [2.5, 97.5], axis=0))

    def __str__(self) -> str:
        told = [f"{name}^-{a:.3f} ({-high:+.3f} to {-low:+.3f})" for name, (a, low, high) in self.exponents.items()]
        floor = "" if self.floor is None else f"{self.floor:.3g} + "
        return f"{floor}{self.scale:.3g} {' '.join(told)}; {self.n} points, {self.spare} to spare"


def fit_power_law(loss, **factors) -> PowerLaw:
    """Least squares on the loss; with a floor only where the points carry one, which three points never do: there
    must be one more than parameters, and the floor's own 95 % interval must lie above 0.

    Args:
        loss: (n,) nats, error rates: what falls.
        factors: name -> (n,) positive numbers: `parameters=`, `hours=`.
    Raises:
        ValueError: lengths that differ, factors or losses not above 0, or no point to spare.

    Example:
        >>> hours = np.array([1.0, 2, 4, 8])
        >>> print(fit_power_law(3 * hours**-0.5, hours=hours))
        3 hours^-0.500 (-0.500 to -0.500); 4 points, 2 to spare
    """
    from scipy.stats import t

    loss, x = np.asarray(loss, float), np.array([np.asarray(v, float) for v in factors.values()])
    if x.shape != (len(factors), len(loss)) or not (x > 0).all() or not (loss > 0).all():
        raise ValueError("A power law is fitted to losses above 0 and as many values above 0 of every factor.")
    plain = 1 + len(factors)  # parameters without a floor
    if len(loss) <= plain:
        raise ValueError(f"{len(loss)} points leave none to spare for the uncertainty of {plain} parameters.")
    logs = np.log(x)
    centre = logs.mean(1, keepdims=True)  # there the estimates of A and of the exponents hardly depend on each other
    values, errors = _fitted(logs - centre, loss, floor=False)
    if len(loss) > plain + 1:
        floored, floored_errors = _fitted(logs - centre, loss, floor=True)
        margin = t.ppf(0.975, len(loss) - len(floored)) * floored_errors[-1, -1] ** 0.5
        if margin < floored[-1] < loss.min():
            values, errors = floored, floored_errors
    spare = len(loss) - len(values)
    random = np.random.default_rng(0)  # draws of a multivariate t, whose margins are the exponents' intervals
    heavy = np.sqrt(spare / random.chisquare(spare, (2000, 1)))
    draws = values + heavy * random.multivariate_normal(np.zeros(len(values)), errors, 2000, check_valid="ignore")
    draws = np.vstack([values, draws])
    draws[:, 0] += draws[:, 1:plain] @ centre[:, 0]  # log A, from the centre to where every factor is 1
    margins = t.ppf(0.975, spare) * np.sqrt(np.diag(errors))
    exponents = {
        name: (float(values[k]), float(values[k] - margins[k]), float(values[k] + margins[k]))
        for k, name in enumerate(factors, 1)
    }
    floor = float(values[plain]) if len(values) > plain else None
    return PowerLaw(exponents, float(np.exp(draws[0, 0])), floor, len(loss), spare, draws)


def _loss(values: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """values: log A, exponents, then the floor where there is one; logs: (factors, ...)."""
    falling = np.exp(values[0] - np.tensordot(values[1 : len(logs) + 1], logs, 1))
    return falling + (values[-1] if len(values) > len(logs) + 1 else 0.0)


def _fitted(logs: np.ndarray, loss: np.ndarray, floor: bool) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and their covariance; each start is the straight line through the logarithms above a floor."""
    from scipy.optimize import least_squares

    design = np.vstack([np.ones(len(loss)), -logs]).T
    tried = []
    for share in (0.3, 0.6, 0.9) if floor else (0.0,):
        low = share * loss.min()
        start = [*np.linalg.lstsq(design, np.log(loss - low), rcond=None)[0], *([low] if floor else [])]
        tried.append(least_squares(lambda v: _loss(v, logs) - loss, start, x_scale="jac", max_nfev=200))
    best = min(tried, key=lambda fit: fit.cost)
    return best.x, np.linalg.pinv(best.jac.T @ best.jac) * 2 * best.cost / (len(loss) - len(best.x))
