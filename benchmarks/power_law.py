"""Power laws, with or without a floor, fitted to few noisy cells, with intervals that cover.

A law says  error = sum_j a_j size_j^-alpha_j + c.  One size is the usual law (Hestness et al.
2017); two, pairs and parameters, are that of Hoffmann et al. 2022, eq. 2. It is fitted to the
logarithm of the error by Huber's loss (as theirs, appendix D.2), the floor c by an outer search.

Hoffmann et al. let the loss turn linear at 1e-3, far below the noise of an error counted on
hundreds of samples, where it would be least absolute deviations with 64% of the efficiency. Here
it turns at 1.345 standard deviations (95%; Huber, Robust Statistics, 1981, section 7).

Intervals are profiles: all values whose best fit is not worse by more than Student's t allows, with
the dispersion that the cells themselves show about the law (the robust drop test, Schrader and
Hettmansperger, Biometrika 1980). For least squares and no floor this is the t-interval.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ezsr_shards.errors import ConfigError

Array = npt.NDArray[np.float64]

HUBER_TURN = 1.345
_STEEPEST = 5.0
_ITERATIONS = 50


@dataclass(frozen=True)
class Points:
    """Measured cells.

    sizes       float64 (cells, J): pairs, parameters, or both
    errors      float64 (cells,), more than 0
    covariance  float64 (cells, cells) of ln(error): noise of counting and of seeds, as it is known
    known       whether it is; else only its ratios mean something
    """

    sizes: Array
    errors: Array
    covariance: Array
    known: bool = True

    @property
    def variances(self) -> Array:
        """Return the variances of ln(error), float64 (cells,)."""
        return np.diagonal(self.covariance)

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.errors)

    def keep(self, chosen: npt.NDArray[np.bool_]) -> Points:
        """Return those of the cells."""
        return replace(
            self,
            sizes=self.sizes[chosen],
            errors=self.errors[chosen],
            covariance=self.covariance[np.ix_(chosen, chosen)],
        )


@dataclass(frozen=True)
class Law:
    """A fitted law; made of lists and numbers, so that JSON keeps it.

    factors        a_j, J of them
    exponents      alpha_j
    exponents_95   their profile intervals; None for an end that the cells leave open
    floor          c; 0 where none was fitted
    floor_95       its profile interval; None where none was fitted
    centre         means of ln(size), about which the covariance is small
    covariance     of (ln a_j at the centre, alpha_j, and c where it is above 0)
    dispersion     scatter about the law, in units of the known variances
    freedom        cells less parameters
    loss           Huber's, of the best fit
    """

    factors: list[float]
    exponents: list[float]
    exponents_95: list[list[float | None]]
    floor: float
    floor_95: list[float | None] | None
    centre: list[float]
    covariance: list[list[float]] = field(repr=False)
    dispersion: float
    freedom: int
    loss: float

    def errors(self, sizes: npt.ArrayLike) -> Array:
        """Return the law's errors at sizes (..., J)."""
        return np.asarray(self._terms(sizes).sum(-1) + self.floor)

    def _terms(self, sizes: npt.ArrayLike) -> Array:
        powers = np.asarray(sizes, float) ** -np.array(self.exponents)
        return np.asarray(np.array(self.factors) * powers)

    def intervals(
        self,
        sizes: npt.ArrayLike,
        variances: npt.ArrayLike = 0.0,
        freedoms: npt.ArrayLike = np.inf,
    ) -> Array:
        """Return 95% limits (2, ...) at sizes (..., J).

        They hold the law itself, or, given the variance of ln(error) of a new cell, that cell.
        `freedoms` are the degrees of freedom that this variance is known by. Where cells scatter
        more about the law than it explains, it is scaled up by a factor that has the law's.
        """
        logs = np.log(np.asarray(sizes, float)) - np.array(self.centre)
        values = self.errors(sizes)
        shares = self._terms(sizes) / values[..., None]
        columns = [shares, -shares * logs]
        if len(self.covariance) > 2 * len(self.factors):
            columns.append(1 / values[..., None])
        slopes = np.concatenate(columns, -1)
        spread = np.einsum("...i,ij,...j->...", slopes, np.array(self.covariance), slopes)
        own, other = np.maximum(spread, 0), max(self.dispersion, 1.0) * np.asarray(variances)
        known = np.minimum(freedoms, self.freedom) if self.dispersion > 1 else freedoms
        parts = own**2 / self.freedom + other**2 / np.asarray(known)
        freedom = (own + other) ** 2 / np.maximum(parts, 1e-300)  # Satterthwaite's, of the sum
        half = _student(freedom) * np.sqrt(own + other)
        return np.asarray(values * np.exp(np.stack([-half, half])))


def _student(freedom: npt.ArrayLike) -> Array:
    """Return 97.5% quantiles of Student's t."""
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise ConfigError("scaling laws need scipy: pip install 'ezsr[dev]'") from error
    return np.asarray(stdtrit(freedom, 0.975))


@dataclass(frozen=True)
class _Problem:
    """ln(errors) (..., cells) over centred ln(sizes) (cells, J), in units of the noise.

    Leading axes are many problems at once; `counts` says how often a bootstrap took each cell.
    `whiten` is the noise's covariance to the power of -1/2, the symmetric root, so that residuals
    stay those of their cells as nearly as can be.
    """

    logs: Array
    targets: Array
    whiten: Array
    turn: float = np.inf
    counts: Array = field(default_factory=lambda: np.ones(1))

    @property
    def terms(self) -> int:
        return self.logs.shape[-1]

    def flatten(self, shape: tuple[int, ...]) -> _Problem:
        """Return it with one leading axis instead of `shape`."""
        cells = (*shape, len(self.logs))
        targets, counts = (np.broadcast_to(a, cells) for a in (self.targets, self.counts))
        flat = (-1, len(self.logs))
        return replace(self, targets=targets.reshape(flat), counts=counts.reshape(flat))

    def take(self, chosen: npt.NDArray[np.intp]) -> _Problem:
        """Return those of the flattened problems."""
        return replace(self, targets=self.targets[chosen], counts=self.counts[chosen])

    def evaluate(self, theta: Array, floors: Array) -> tuple[Array, Array, Array]:
        """Return losses (...,), weighted residuals (..., cells), each term's share of the law."""
        J = self.terms
        exponent = theta[..., None, :J] - theta[..., None, J:] * self.logs
        terms = np.exp(np.clip(exponent, -60, 60))
        total = terms.sum(-1) + floors[..., None]
        residuals = (self.targets - np.log(total)) @ self.whiten
        over = np.maximum(np.abs(residuals) - self.turn, 0)
        rho = (residuals**2 - over**2) / 2
        return (rho * self.counts).sum(-1), residuals, terms / total[..., None]


def _whiten(covariance: Array) -> Array:
    """Return the symmetric inverse square root."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def _descend(
    problem: _Problem, theta: Array, floors: Array, free: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return the least losses (...,) and their parameters (..., 2J), by Levenberg and Marquardt.

    Only parameters that are `free` (2J,) move. Residuals beyond the turn are weighted down, which
    is Huber's loss (iteratively reweighted least squares). Problems that stand still are left out.
    """
    shape, J = theta.shape[:-1], problem.terms
    problem = problem.flatten(shape)
    theta, floors = theta.reshape(-1, 2 * J).copy(), np.broadcast_to(floors, shape).reshape(-1)
    losses, damping = problem.evaluate(theta, floors)[0], np.full(len(theta), 1e-3)
    moving = np.arange(len(theta))
    for _ in range(_ITERATIONS):
        part, here = problem.take(moving), theta[moving]
        _, residuals, shares = part.evaluate(here, floors[moving])
        robust = part.counts * np.minimum(1, part.turn / np.maximum(np.abs(residuals), 1e-300))
        slopes = np.concatenate([shares, -shares * part.logs], -1)[..., free]
        slopes = part.whiten @ slopes
        across = (slopes * robust[..., None]).swapaxes(1, 2)
        bent, downhill = across @ slopes, across @ residuals[..., None]
        ridge = damping[moving, None] * np.einsum("nii->ni", bent) + 1e-10
        step = np.linalg.solve(bent + ridge[..., None] * np.eye(free.sum()), downhill)
        here[:, free] += step[..., 0]
        here[:, J:] = np.clip(here[:, J:], -_STEEPEST, _STEEPEST)
        tried = part.evaluate(here, floors[moving])[0]
        gained = losses[moving] - tried
        better = gained >= 0
        theta[moving[better]], losses[moving[better]] = here[better], tried[better]
        damping[moving] *= np.where(better, 0.2, 8)
        still = np.where(better, gained <= 1e-9 * (1e-9 + tried), damping[moving] > 1e6)
        moving = moving[~still]
        if not len(moving):
            break
    return losses.reshape(shape), theta.reshape(*shape, 2 * J)


def _starts(problem: _Problem, errors: Array, floors: Array) -> Array:
    """Return parameters to begin with, (starts, floors, 2J)."""
    J = problem.terms
    above = np.log(np.maximum(errors - floors[:, None], 0.05 * errors))
    if J == 1:
        slope, middle = np.polyfit(problem.logs[:, 0], above.T, 1)
        return np.stack([middle, -slope], -1)[None]
    slopes = np.stack(np.meshgrid([0.15, 0.5, 1.2], [0.15, 0.5, 1.2]), -1).reshape(-1, 2)
    middles = np.repeat(above.mean(-1)[None, :, None] - np.log(2), 2, -1)
    middles = np.repeat(middles, len(slopes), 0)
    exponents = np.repeat(slopes[:, None], len(floors), 1)
    return np.concatenate([middles, exponents], -1)


def _floors(points: Points, with_floor: bool) -> Array:
    """Return the floors to try: up to the least error, and what noise may add to it."""
    if not with_floor:
        return np.zeros(1)
    lowest = int(np.argmin(points.errors))
    noise = np.sqrt(points.variances[lowest]) if points.known else 0.0
    return np.linspace(0, 1, 41) * points.errors[lowest] * np.exp(min(noise, 0.5))


def _scatter(residuals: Array, freedom: int, known: bool) -> float:
    """Return the residuals' robust standard deviation; known noise is the least that it can be."""
    seen = 1.4826 * np.median(np.abs(residuals)) * np.sqrt(len(residuals) / freedom)
    return max(float(seen), 1.0 if known else 1e-9)


def _best(problem: _Problem, errors: Array, floors: Array) -> tuple[Array, Array]:
    """Return the least loss (floors,) at every floor, and its parameters (floors, 2J)."""
    free = np.ones(2 * problem.terms, bool)
    starts = _starts(problem, errors, floors)
    losses, thetas = _descend(problem, starts, np.broadcast_to(floors, starts.shape[:-1]), free)
    first = np.argmin(losses, 0)
    chosen = np.arange(len(floors))
    return losses[first, chosen], thetas[first, chosen]


def _crossings(values: Array, drops: Array, allowed: float) -> list[float | None]:
    """Return where drops rise above what is allowed, on either side of the least; None: nowhere.

    Roots of drops are nearly straight lines, so they are interpolated.
    """
    middle, roots = int(np.argmin(drops)), np.sqrt(np.maximum(drops, 0))
    ends: list[float | None] = []
    for side in (np.arange(middle, -1, -1), np.arange(middle, len(values))):
        over = np.flatnonzero(roots[side] > np.sqrt(allowed))
        if not len(over):
            ends.append(None)
            continue
        inner, outer = side[over[0] - 1], side[over[0]]
        part = (np.sqrt(allowed) - roots[inner]) / (roots[outer] - roots[inner])
        ends.append(float(values[inner] + part * (values[outer] - values[inner])))
    return ends


def fit_law(points: Points, with_floor: bool = False, turn: float = HUBER_TURN) -> Law:
    """Return the law of the points; ValueError where there are too few to tell its scatter.

    `turn`, in standard deviations, is where Huber's loss turns from squares to absolute values.
    """
    J = points.sizes.shape[1]
    parameters = 2 * J + with_floor
    freedom = len(points) - parameters
    if freedom < 1:
        raise ValueError(f"{len(points)} cells, at least {parameters + 1} are needed")
    logs = np.log(points.sizes)
    centre = logs.mean(0)
    problem = _Problem(logs - centre, np.log(points.errors), _whiten(points.covariance))
    floors = _floors(points, with_floor)
    losses, thetas = _best(problem, points.errors, floors)
    plain = int(np.argmin(losses))
    _, residuals, _ = problem.evaluate(thetas[plain], floors[plain])
    problem = replace(problem, turn=turn * _scatter(residuals, freedom, points.known))
    losses, thetas = _best(problem, points.errors, floors)
    if with_floor:  # once more, finer, about the best
        at, step = floors[np.argmin(losses)], floors[1]
        finer = np.linspace(max(at - step, 0), min(at + step, floors[-1]), 41)
        floors = np.unique(np.concatenate([floors, finer]))
        losses, thetas = _best(problem, points.errors, floors)
    best = int(np.argmin(losses))
    dispersion, covariance = _spread(problem, thetas[best], floors[best], freedom)
    allowed = dispersion * float(_student(freedom)) ** 2 / 2
    middle, exponents = thetas[best, :J], thetas[best, J:]
    return Law(
        factors=np.exp(middle + exponents * centre).tolist(),
        exponents=exponents.tolist(),
        exponents_95=[
            _profile_exponent(problem, (losses, thetas, floors), allowed, j) for j in range(J)
        ],
        floor=float(floors[best]),
        floor_95=_profile_floor(floors, losses - losses[best], allowed) if with_floor else None,
        centre=centre.tolist(),
        covariance=covariance.tolist(),
        dispersion=dispersion,
        freedom=freedom,
        loss=float(losses[best]),
    )


def _spread(
    problem: _Problem, theta: Array, floor: np.float64, freedom: int
) -> tuple[float, Array]:
    """Return the dispersion about the best fit, and the parameters' covariance.

    Both are those of Huber's estimate: Robust Statistics, 1981, section 7.6.
    """
    _, residuals, shares = problem.evaluate(theta, floor)
    inside = max(np.mean(np.abs(residuals) <= problem.turn), 1 / len(residuals))
    bounded = np.clip(residuals, -problem.turn, problem.turn)
    dispersion = (bounded**2).sum() / freedom / inside
    slopes = [shares, -shares * problem.logs]
    if floor > 0:
        slopes.append((1 - shares.sum(-1, keepdims=True)) / floor)
    matrix = problem.whiten @ np.concatenate(slopes, -1)
    return float(dispersion), dispersion / inside * np.linalg.pinv(matrix.T @ matrix)


def _profile_floor(floors: Array, drops: Array, allowed: float) -> list[float | None]:
    low, high = _crossings(floors, drops, allowed)
    return [0.0 if low is None else low, high]


def _profile_exponent(
    problem: _Problem, found: tuple[Array, Array, Array], allowed: float, j: int
) -> list[float | None]:
    """Return the exponents whose best fit over all floors is worse by no more than `allowed`.

    `found` are losses, parameters and floors of best fits.
    """
    losses, thetas, floors = found
    J, best = problem.terms, int(np.argmin(losses))
    free = np.arange(2 * J) != J + j
    values = thetas[best, J + j] + 3 * np.linspace(-1, 1, 61) ** 3
    coarse = slice(None, None, 2) if len(floors) > 1 else slice(None)
    kept = np.unique(np.append(np.arange(len(floors))[coarse], best))
    grid = np.repeat(thetas[None, kept], len(values), 0)
    grid[..., J + j] = values[:, None]
    tried = np.broadcast_to(floors[kept], grid.shape[:-1])
    worse, _ = _descend(problem, grid, tried, free)
    return _crossings(values, worse.min(1) - losses[best], allowed)


def resample_exponents(
    points: Points, law: Law, errors: Array, counts: Array
) -> tuple[Array, Array]:
    """Return exponents (draws, J) and floors (draws,) of resampled cells.

    `errors` (draws, cells) are the cells' in each draw, `counts` how often each cell was drawn.
    """
    J = points.sizes.shape[1]
    logs = np.log(points.sizes) - np.array(law.centre)
    floors = _floors(points, law.floor_95 is not None)[::2]
    alone = np.diag(points.variances**-0.5)  # a cell may be drawn twice, so each stands by itself
    problem = _Problem(logs, np.log(errors)[:, None], alone, counts=counts[:, None])
    scatter = np.sqrt(max(law.dispersion, 1.0 if points.known else 1e-18))
    problem = replace(problem, turn=float(HUBER_TURN * scatter))
    middle = np.log(law.factors) - np.array(law.exponents) * np.array(law.centre)
    theta = np.concatenate([middle, law.exponents])
    start = np.broadcast_to(theta, (len(errors), len(floors), 2 * J))
    tried = np.broadcast_to(floors, start.shape[:-1])
    losses, thetas = _descend(problem, start, tried, np.ones(2 * J, bool))
    first = np.argmin(losses, 1)
    return thetas[np.arange(len(errors)), first, J:], floors[first]
