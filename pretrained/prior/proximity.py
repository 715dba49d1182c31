"""How near the prior comes to the benchmark tasks of "Beyond Normal" (Czyz et al., 2023)."""

from __future__ import annotations

__all__ = ["PROXIMITY"]

PROXIMITY: dict[str, str] = {
    "multinormal, sparse or dense": (
        "Same family: one Gaussian with a few or with all pairs correlated. Strengths, widths and "
        "directions are random here; the benchmark's own matrices are not singled out."
    ),
    "multivariate Student": (
        "Same family for nu >= 2, identity scale matrix included. nu = 1 (Cauchy) is not drawn."
    ),
    "additive uniform noise": (
        "Related: y = x + e with x on 2 to 8 unequal bins, and uniform noise is one law of four. "
        "A single uniform x with uniform noise is not drawn."
    ),
    "bimodal (normal margins through the inverse CDF of a mixture)": (
        "Not drawn. The nearest are mixtures of few components; by its copula the task is a plain "
        "Gaussian, and canonical coordinates read it so."
    ),
    "asinh, half-cube, wiggly, normal CDF (coordinate by coordinate)": (
        "Not drawn. `SinhArcsinh` bends coordinates at random powers (0.6 to 1.4) and skews; "
        "asinh (logarithmic tails), |x|^1.5, added sines and the normal CDF are not among them. "
        "Ranks undo all of these."
    ),
    "spiral": (
        "Related: `NormRotation` turns random planes by an angle that levels off with the norm. "
        "The benchmark turns coordinate planes by a multiple of the squared norm, without "
        "bound; neither is drawn."
    ),
    "swiss roll": (
        "Related: lifts put a lower-width source on a random curved sheet (tanh networks, then "
        "rotations). The roll u -> (u cos u, u sin u) is not drawn."
    ),
}
