"""The judges, which share nothing with what is judged: fresh probes and independent estimates."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from experiments.baselines import KSG
from experiments.labels import ross

__all__ = ["channel_information", "information", "leak", "linear_accuracy"]


def leak(z: Tensor, other: Tensor, *, folds: int = 3) -> float:
    """How well `other` can be told from a code: the stronger of two cross-validated probes.

    Kernel ridge, or logistic regression, and gradient boosting.

    Args:
        z: frozen code, shape (n, d).
        other: a variable, shape (n, 1), or two classes, shape (n,).
        folds: of the cross-validation.

    Returns:
        R² of a variable, 0 where nothing can be told; of classes, the area under the ROC curve,
        ½ where nothing can be told.
    """
    features = z.double().numpy()
    if other.is_floating_point():
        wanted = other[:, 0].double().numpy()
        wanted = wanted - wanted.mean()
        ridge = KernelRidge(kernel="rbf", gamma=0.5 / z.shape[1], alpha=0.3)
        probes = [ridge, HistGradientBoostingRegressor(max_iter=40, random_state=0)]
        found = [
            cross_val_predict(make_pipeline(StandardScaler(), p), features, wanted, cv=folds)
            for p in probes
        ]
        return max(float(r2_score(wanted, f)) for f in found)
    classes = other.numpy()
    probes = [
        LogisticRegression(),
        HistGradientBoostingClassifier(max_iter=40, min_samples_leaf=10, random_state=0),
    ]
    found = [
        cross_val_predict(
            make_pipeline(StandardScaler(), p), features, classes, cv=folds, method="predict_proba"
        )[:, 1]
        for p in probes
    ]
    return max(float(roc_auc_score(classes, f)) for f in found)


def linear_accuracy(train: Tensor, label: Tensor, held: Tensor, held_label: Tensor) -> float:
    """Accuracy on held-out codes of logistic regression from labelled codes."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe.fit(train.numpy(), label.numpy())
    return float(probe.score(held.numpy(), held_label.numpy()))


def information(z: Tensor, other: Tensor) -> float:
    """Nearest-neighbour estimate in nats: Kraskov's of variables, Ross's of classes."""
    if other.is_floating_point():
        return KSG()(z, other, 0).value
    return ross(z.double(), other)


def channel_information(signal: Tensor, noise: float) -> float:
    r"""I(s; s + noise · ε) in nats by the known density of the channel, at most log n.

    E[log p(z|s) − log mean_j p(z|s_j)] over the given signals (Poole et al., 2019,
    https://arxiv.org/abs/1905.06922, Eq. 10).
    """
    generator = torch.Generator().manual_seed(0)
    z = signal + noise * torch.randn(signal.shape, generator=generator)
    log_density = -torch.cdist(z.double(), signal.double()).square() / (2 * noise**2)
    own = log_density.diagonal()
    return float((own - log_density.logsumexp(1)).mean()) + math.log(len(signal))


def r2(found: Tensor, wanted: Tensor) -> float:
    """Share of variance explained."""
    return float(r2_score(np.asarray(wanted), np.asarray(found)))
