"""Texts as standardised TF-IDF features of the most frequent words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.ib_dynamics.newsgroups import Corpus

__all__ = ["Features", "tfidf"]


@dataclass(frozen=True)
class Features:
    """A corpus in numbers.

    Args:
        train_x: shape (n, words), float32, each column of mean 0 and deviation 1.
        train_y: classes, shape (n,).
        val_x: shape (m, words), in the units of the training data.
        val_y: shape (m,).
        classes: number of groups.
    """

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    classes: int


def tfidf(corpus: Corpus, words: int) -> Features:
    """TF-IDF of the `words` most frequent words of the training texts, standardised there."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=words, dtype=np.float32)
    train, val = vectorizer.fit_transform(corpus.train), vectorizer.transform(corpus.test)
    mean = np.asarray(train.mean(0))
    spread = np.sqrt(np.maximum(np.asarray(train.multiply(train).mean(0)) - mean**2, 1e-12))
    index = {name: i for i, name in enumerate(corpus.classes)}
    sides = []
    for matrix, groups in ((train, corpus.train_groups), (val, corpus.test_groups)):
        dense = matrix.toarray()
        dense -= mean
        dense /= spread
        sides += [torch.from_numpy(dense), torch.tensor([index[group] for group in groups])]
    return Features(*sides, classes=len(index))
