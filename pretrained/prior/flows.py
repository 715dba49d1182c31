"""Random flows of x alone or of y alone, which leave the information as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

from .draws import categorical, coin, integer
from .steps import AffineCoupling, Lift, LinearMix, NormRotation, SinhArcsinh, Standardise, Step

__all__ = ["Flow", "RandomFlow"]


@dataclass(frozen=True)
class Flow:
    """Steps in sequence."""

    steps: Sequence[Step]

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x."""
        for step in self.steps:
            x = step(x)
        return x

    def inverse(self, z: Tensor) -> Tensor:
        """What z is the image of."""
        for step in reversed(self.steps):
            z = step.inverse(z)
        return z


class RandomFlow:
    """A random sequence of random steps, standardised before each.

    In one dimension every step is a `SinhArcsinh`, as the others need two.

    Args:
        depth: Bounds of the number of steps, drawn for each call.
        coupling: Weight of `AffineCoupling` among the steps to choose from.
        rotation: Weight of `NormRotation`.
        linear: Weight of `LinearMix`.
        elementwise: Weight of `SinhArcsinh`.
    """

    def __init__(
        self,
        depth: tuple[int, int] = (1, 4),
        *,
        coupling: float = 0.35,
        rotation: float = 0.30,
        linear: float = 0.20,
        elementwise: float = 0.15,
    ) -> None:
        self.depth = depth
        self.weights = (coupling, rotation, linear, elementwise)

    def __call__(self, x: Tensor, *, generator: Generator, width: int | None = None) -> Tensor:
        """x of shape (b, n, d) through a new random flow, of shape (b, n, width or d)."""
        return self.draw(x, generator=generator, width=width)[1]

    def draw(
        self, x: Tensor, *, generator: Generator, width: int | None = None
    ) -> tuple[Flow, Tensor]:
        """A new random flow and the image of x under it.

        Args:
            x: Data to standardise by, of shape (b, n, d).
            generator: Source of all randomness.
            width: With width > d, x is first lifted onto a curved d-dimensional sheet in R^width.
        """
        steps: list[Step] = []

        def add(step: Step) -> None:
            nonlocal x
            steps.append(step)
            x = step(x)

        source = x.shape[-1]
        if width is not None and width > source:
            add(Standardise.fit(x))
            add(Lift(source, width))
            # the padded coordinates become functions of the others, then all are mixed
            add(AffineCoupling.draw(x, generator=generator, conditioning=source))
            add(Standardise.fit(x))
            turn = coin(0.5, generator=generator)
            mix: type[NormRotation | LinearMix] = NormRotation if turn else LinearMix
            add(mix.draw(x, generator=generator))
        for _ in range(integer(*self.depth, generator=generator)):
            add(Standardise.fit(x))
            add(self._draw_step(x, generator=generator))
        add(Standardise.fit(x))
        return Flow(tuple(steps)), x

    def _draw_step(self, x: Tensor, *, generator: Generator) -> Step:
        kind = 3 if x.shape[-1] == 1 else categorical(self.weights, generator=generator)
        if kind == 0:
            return AffineCoupling.draw(x, generator=generator)
        if kind == 1:
            return NormRotation.draw(x, generator=generator)
        if kind == 2:
            return LinearMix.draw(x, generator=generator)
        return SinhArcsinh.draw(x, generator=generator)
