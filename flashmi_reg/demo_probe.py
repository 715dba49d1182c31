"""Independent judges of a representation: a probe and a nearest-neighbour estimate of MI."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ksg", "probe_r2"]

Array = NDArray[np.float64]


def probe_r2(z: Array, target: Array, *, seed: int = 0) -> float:
    """R² with which fresh regressors recover ``target`` from ``z``, by 5-fold cross-validation.

    Two probes of different kinds are trained, kernel ridge and a random forest, and the stronger
    one counts. Zero or below means that nothing could be recovered.

    Args:
        z: frozen representation, shape ``(n, d)``.
        target: the nuisance, shape ``(n,)``.
        seed: of the folds and of the forest.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = KFold(5, shuffle=True, random_state=seed)
    centred = target - target.mean()
    probes = (
        make_pipeline(
            StandardScaler(), KernelRidge(kernel="rbf", gamma=0.5 / z.shape[1], alpha=0.3)
        ),
        RandomForestRegressor(100, min_samples_leaf=5, random_state=seed),
    )
    return max(
        float(r2_score(centred, cross_val_predict(probe, z, centred, cv=folds))) for probe in probes
    )


def ksg(x: Array, y: Array, *, k: int = 3, seed: int = 0) -> float:
    """Mutual information in nats by nearest neighbours, for vectors on both sides.

    The first estimator of "Estimating mutual information" (Kraskov et al., 2004,
    https://arxiv.org/abs/cond-mat/0305641), on standardised columns with a trace of noise against
    ties. It shares nothing with the pretrained network; in many dimensions it errs towards zero.

    Args:
        x: samples, shape ``(n, dx)``.
        y: samples, shape ``(n, dy)``.
        k: neighbours.
        seed: of the noise.
    """
    from scipy.special import digamma
    from sklearn.neighbors import KDTree

    rng = np.random.default_rng(seed)

    def tidy(a: Array) -> Array:
        a = (a - a.mean(0)) / (a.std(0) + 1e-12)
        return a + 1e-8 * rng.standard_normal(a.shape)

    def count_within(a: Array, radius: Array) -> NDArray[np.int64]:
        return KDTree(a, metric="chebyshev").query_radius(a, radius, count_only=True) - 1

    x, y = tidy(x), tidy(y)
    both = np.concatenate([x, y], axis=1)
    distance, _ = KDTree(both, metric="chebyshev").query(both, k + 1)
    radius = np.nextafter(distance[:, -1], 0)
    nx, ny = count_within(x, radius), count_within(y, radius)
    return float(digamma(k) + digamma(len(x)) - np.mean(digamma(nx + 1) + digamma(ny + 1)))
