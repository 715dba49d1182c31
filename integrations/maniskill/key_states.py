"""KeyStateExtractor: the states of demonstrations that mutual information singles out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flashmi_reg import FlashMI
from flashmi_reg.errors import CheckpointError, InputError

from .demonstrations import Demonstration
from .localisation import (
    FAR,
    Localiser,
    features,
    ordered_times,
    ordered_weights,
    prior,
    shifted,
)
from .readers import POOL, WEIGHTS, Reader, SlicedCritic, read_pairs

__all__ = ["LAGS", "Criterion", "KeyStateExtractor", "Settings"]

Criterion = Literal["most", "least"]

LAGS: dict[str, float] = {"most": 0.2, "least": 0.02}
"""The lag Δ of each criterion, as a share of the median length."""
BATCH = 16  # demonstrations from which the network learns at once
GRID = 48  # times of a demonstration that are weighed
APART = 0.5  # least distance of key states, as a share of the length over K
RATE = 2e-2
FORMAT = "key-states-2"


@dataclass(frozen=True)
class Settings:
    """What an extractor was made with, and what it learned of the demonstrations' form.

    Attributes:
        count: key states, the end included.
        criterion: "most" or "least" predictable.
        lag: Δ as a share of the median length.
        readings: of the estimator.
        seed: of the network, the slices and the pairs.
        lag_steps: Δ in steps, once fitted.
    """

    count: int
    criterion: Criterion
    lag: float
    readings: int
    seed: int
    lag_steps: int = 0


class KeyStateExtractor:
    r"""Finds K key states in demonstrations of one task, at times that follow events.

    In each demonstration, key state k lies at the time t_k that is singled out by how much the
    past s_{t − Δ} tells of the present s_t, across demonstrations. A small network weighs the
    times of each demonstration. At each of its steps, one pair of each of 100 demonstrations is
    read by the frozen estimator, whose critic T then values the pairs of *all* times, and the
    network follows the gradient of E_w[T], the Donsker–Varadhan bound with the critic held fixed.
    Nothing else is trained.

    Two criteria, each the other's reverse:

    - "most": t_k maximises I(s_{t_k}; s_{t_k − Δ}), the published one, from "MaxMI: A Maximal
      Mutual Information Criterion for Manipulation Concept Discovery" (Zhou & Yang, 2024). The
      pairs that are read are drawn by the network's weights, one data set a key state. It finds
      moments at which little changes: pauses before and after an event.
    - "least", the default: the pairs that are read are drawn at random times, and the key states
      are those whose present the past foretells least, as the information of a typical moment
      is understood. Such moments are changes of contact: a grasp, a release. The lag is short,
      a few steps, so that the moment is told from its neighbours.

    On motion-planned demonstrations of three tasks the second lies nearer to the events that the
    simulator knows (`experiments/key_states`), hence the default.

    The last key state is the final state, where a successful demonstration has reached its goal.
    The others start from the times k/K and are kept in order and apart.

    Args:
        count: K, the number of key states, the final one included; at least 2.
        criterion: "least" or "most", see above.
        lag: Δ as a share of the demonstrations' median length; by default that of `LAGS`.
        readings: times that pairs are drawn and read anew, each with a step of the network.
        seed: of everything random; equal seeds give equal key states.
        reader: how pairs are read, by default 5-sliced by the packaged weights.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from flashmi_reg.integrations.maniskill import Demonstration, KeyStateExtractor
        >>> generator = torch.Generator().manual_seed(0)
        >>> walks = [torch.randn(30, 2, generator=generator).cumsum(0) for _ in range(60)]
        >>> demos = [Demonstration(w, torch.zeros(29, 1), seed=i) for i, w in enumerate(walks)]
        >>> extractor = KeyStateExtractor(2, readings=1).fit(demos)
        >>> first, last = extractor.transform(demos[0]).tolist()
        >>> 0 < first < last == 29
        True
    """

    def __init__(
        self,
        count: int = 3,
        *,
        criterion: Criterion = "least",
        lag: float | None = None,
        readings: int = 64,
        seed: int = 0,
        reader: Reader | None = None,
    ) -> None:
        if criterion not in LAGS:
            raise InputError(f"`criterion` must be 'most' or 'least', received {criterion!r}.")
        lag = LAGS[criterion] if lag is None else lag
        if count < 2:
            raise InputError(f"`count` must be at least 2, the end included, received {count}.")
        if not 0 < lag < 0.5:
            raise InputError(f"`lag` must be a share of the length in (0, 0.5), received {lag}.")
        if readings < 1:
            raise InputError(f"`readings` must be at least 1, received {readings}.")
        self.settings = Settings(count, criterion, lag, readings, seed)
        self._reader = reader
        self._network: Localiser | None = None
        self._mean = self._spread = torch.empty(0)

    def fit(self, demonstrations: Sequence[Demonstration]) -> KeyStateExtractor:
        """Learns where the key states lie; returns itself.

        Args:
            demonstrations: of one task; at least as many as the estimator needs samples (50).

        Raises:
            InputError: too few, of unequal widths, too short, or not finite.
        """
        model = FlashMI.from_pretrained(WEIGHTS)
        read = SlicedCritic(model) if self._reader is None else self._reader
        _check(demonstrations, model.header.trained_n[0])
        self._measure(demonstrations)
        generator = torch.Generator().manual_seed(self.settings.seed)
        lag, count = self.settings.lag_steps, self.settings.count
        states = [self.standardise(d) for d in demonstrations]
        grid = torch.linspace(0, 1, GRID)
        gap = _gap(GRID, count)
        times = torch.stack([(grid * (len(s) - 1)).round().long() for s in states])
        now = _at(states, times)
        then = _at([shifted(s, lag) for s in states], times)
        seen = _at([features(s, lag) for s in states], times)
        early = (times < lag)[..., None]
        base = prior(grid, count).expand(len(states), -1, -1).masked_fill(early, FAR)
        anywhere = (~early).float()
        network = Localiser(seen.shape[-1], count - 1, generator=generator)
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.settings.readings)
        most = self.settings.criterion == "most"
        left = self.settings.readings
        while left:
            orders = _orders(len(states), min(left, read.together), generator)
            left -= len(orders)
            rows, learners = orders[:, :POOL], orders[:, :BATCH]
            with torch.no_grad():
                drawn = ordered_weights(network(seen) + base, gap) if most else anywhere
                score = read_pairs(read, now[rows], then[rows], drawn[rows], generator)
                values = score(now[learners], then[learners])
            for chosen, value in zip(learners, values, strict=True):
                weights = ordered_weights(network(seen[chosen]) + base[chosen], gap)
                gain = (weights * value).sum(1).mean(0).sum()
                loss = -gain if most else gain
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        self._network = network.requires_grad_(False).eval()
        return self

    @torch.no_grad()
    def transform(self, demonstration: Demonstration) -> Tensor:
        """The times of the key states, as indices of its states in ascending order.

        Returns:
            Shape (K,), integers; the last is T.

        Raises:
            InputError: before `fit`, or the demonstration has another width or is too short.
        """
        scores = self._scores(demonstration)
        times = ordered_times(scores, _gap(len(scores), self.settings.count))
        return torch.cat([times, torch.tensor([len(scores) - 1])])

    @torch.no_grad()
    def weights(self, demonstration: Demonstration) -> Tensor:
        """The network's weights of all times for each key state but the last, (T + 1, K − 1).

        Raises:
            InputError: as :meth:`transform`.
        """
        scores = self._scores(demonstration)
        return ordered_weights(scores, _gap(len(scores), self.settings.count))

    def standardise(self, demonstration: Demonstration) -> Tensor:
        """The states in units of their spread over the fitted demonstrations, (T + 1, Q)."""
        return (demonstration.states.float() - self._mean) / self._spread

    def save(self, path: str | Path) -> Path:
        """Writes the fitted extractor as safetensors; :meth:`load` reads it.

        Raises:
            InputError: before `fit`.
        """
        if self._network is None:
            raise InputError("the extractor knows no demonstrations yet: call `fit` first.")
        tensors = {f"network.{k}": v.contiguous() for k, v in self._network.state_dict().items()}
        tensors |= {"mean": self._mean, "spread": self._spread}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"format": FORMAT, "settings": json.dumps(asdict(self.settings))})
        return path

    @classmethod
    def load(cls, path: str | Path) -> KeyStateExtractor:
        """Reads what :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing, truncated or foreign.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"`path` {str(path)!r} does not exist.")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header.get("format") != FORMAT:
                raise CheckpointError(
                    f"`path` {path.name!r} is no key-state file of this version ({FORMAT})."
                )
            settings = Settings(**json.loads(header["settings"]))
            return cls._restore(settings, tensors)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"`path` {path.name!r} cannot be read: {error}.") from error

    @classmethod
    def _restore(cls, settings: Settings, tensors: dict[str, Tensor]) -> KeyStateExtractor:
        made: dict[str, Any] = asdict(settings)
        del made["lag_steps"]
        extractor = cls(made.pop("count"), **made)
        extractor.settings = settings
        extractor._mean, extractor._spread = tensors.pop("mean"), tensors.pop("spread")
        network = Localiser(3 * len(extractor._mean), settings.count - 1, generator=None)
        network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items()})
        extractor._network = network.requires_grad_(False).eval()
        return extractor

    def __repr__(self) -> str:
        state = "fitted" if self._network is not None else "not fitted"
        s = self.settings
        return f"KeyStateExtractor({s.count}, criterion={s.criterion!r}, lag={s.lag}, {state})"

    def _scores(self, demonstration: Demonstration) -> Tensor:
        """Log weights of all times for each key state but the last, (T + 1, K − 1)."""
        if self._network is None:
            raise InputError("the extractor knows no demonstrations yet: call `fit` first.")
        width, length = demonstration.states.shape[1], len(demonstration)
        count, lag = self.settings.count, self.settings.lag_steps
        if width != len(self._mean):
            raise InputError(
                f"`demonstration` has states of width {width}; the extractor was fitted to "
                f"{len(self._mean)}."
            )
        least = lag + _gap(length, count) * (count - 1) + 1
        if length <= least:
            raise InputError(
                f"`demonstration` holds {length} states; {count} key states and a lag of {lag} "
                f"steps need more than {least}."
            )
        states = self.standardise(demonstration)
        places = torch.linspace(0, 1, length)
        scores: Tensor = self._network(features(states, lag)) + prior(places, count)
        scores[:lag] = FAR
        scores[-1] = FAR
        return scores

    def _measure(self, demonstrations: Sequence[Demonstration]) -> None:
        """Learns the scale of the states and the lag in steps."""
        lengths = sorted(len(d) for d in demonstrations)
        lag = max(1, round(self.settings.lag * (lengths[len(lengths) // 2] - 1)))
        if lengths[0] < lag + self.settings.count + 1:
            raise InputError(
                f"`demonstrations` hold one of {lengths[0]} states, too short for "
                f"{self.settings.count} key states and a lag of {lag} steps: leave it out or "
                "choose a smaller `lag`."
            )
        pooled = torch.cat([d.states for d in demonstrations]).double()
        self._mean = pooled.mean(0).float()
        spread = pooled.std(0)
        # A coordinate that never changes is left at zero instead of being blown up.
        still = spread <= 1e-6 * (1 + pooled.abs().amax(0))
        self._spread = spread.masked_fill(still, torch.inf).float()
        self.settings = Settings(**(asdict(self.settings) | {"lag_steps": lag}))


def _check(demonstrations: Sequence[Demonstration], least: int) -> None:
    if len(demonstrations) < least:
        raise InputError(
            f"`demonstrations` holds {len(demonstrations)}; mutual information across "
            f"demonstrations needs at least {least}: collect more."
        )
    widths = sorted({d.states.shape[1] for d in demonstrations})
    if len(widths) > 1:
        raise InputError(
            f"`demonstrations` have states of unequal widths {widths}: they must be of one task "
            "and one kind of observation."
        )
    for i, demonstration in enumerate(demonstrations):
        if not demonstration.states.isfinite().all():
            raise InputError(f"`demonstrations[{i}].states` holds NaN or infinite values.")


def _at(series: Sequence[Tensor], times: Tensor) -> Tensor:
    """Rows of each series at its times, shape (demonstrations, L, width)."""
    return torch.stack([s[t] for s, t in zip(series, times, strict=True)])


def _orders(count: int, readings: int, generator: torch.Generator) -> Tensor:
    """The demonstrations in random order, anew for each reading, shape (readings, count)."""
    return torch.stack([torch.randperm(count, generator=generator) for _ in range(readings)])


def _gap(length: int, count: int) -> int:
    """The least distance of searched key states in a series of so many times, in its steps."""
    return max(1, round(APART * (length - 1) / count))
