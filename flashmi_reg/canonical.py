r"""Canonical coordinates: what is left of two sides after every linear map of either is undone.

x and y are whitened and rotated to their canonical (CCA) coordinates, strongest pair first.
Mutual information is unchanged, and the network never has to learn that it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = [
    "Canonical",
    "affine",
    "canonicalise",
    "rows_of",
    "singular_vectors",
    "turned",
    "whiten",
]

# Directions whose variance is below this share of the mean variance count as collapsed.
RIDGE = 1e-6
# Lorentzian broadening of 1/(s_j² − s_i²): keeps gradients finite where canonical correlations
# coincide and the coordinates themselves are not defined.
BROADENING = 1e-12


class Canonical(NamedTuple):
    """Two sides in canonical coordinates, padded to one width, with the maps that led there.

    Attributes:
        u: the first side's coordinates, shape (b, n, width).
        v: the second side's coordinates, shape (b, n, width).
        rho: canonical correlations in descending order, shape (b, width), zero-padded.
        widths: true widths of the first and the second side, shape (b, 2).
        swapped: where y became the first side, shape (b,).
        x_map: affine map of x's scores to its coordinates, shape (b, dx + 1, width).
        y_map: the same of y, shape (b, dy + 1, width).
    """

    u: Tensor
    v: Tensor
    rho: Tensor
    widths: Tensor
    swapped: Tensor
    x_map: Tensor
    y_map: Tensor


def canonicalise(x: Tensor, y: Tensor, width: int) -> Canonical:
    r"""Brings normal scores to canonical coordinates, in float64.

    Signs and sides are fixed by rules that depend on the data alone: each pair of coordinates is
    flipped so that the third moment of their sum is positive; the wider side comes first, and of
    two equally wide ones that with the larger fourth moments and mixed third ones. Coordinates of
    the wider side that have no partner are rotated to the principal axes of their covariance
    weighted by the squared norm of the other side. Hence neither a linear map of a side nor
    exchanging the two matters, where the moments tell.

    Args:
        x: scores, shape (b, n, dx), dx ≤ width.
        y: scores, shape (b, n, dy), dy ≤ width.
        width: the width to pad to.

    Returns:
        The canonical coordinates; differentiable in `x` and `y`, rotations included.
    """
    b, _, dx = x.shape
    dy = y.shape[-1]
    if dx == dy:  # as one batch: half the operations
        white, maps = whiten(torch.cat([x.mT, y.mT]).double().mT)
        (x_white, y_white), (x_maps, y_maps) = white.chunk(2), maps.chunk(2)
    else:
        x_white, x_maps = whiten(x.double())
        y_white, y_maps = whiten(y.double())
    cross = torch.bmm(x_white.mT, y_white) / x.shape[1]
    x_turn, rho, y_turn = singular_vectors(cross)
    x_turn = _turn_unpaired(x_white, x_turn, y_white, dy)
    y_turn = _turn_unpaired(y_white, y_turn, x_white, dx)
    x_turn, y_turn = pad(x_turn, (0, width - dx)), pad(y_turn, (0, width - dy))
    u, v = turned(x_white, x_turn), turned(y_white, y_turn)

    with torch.no_grad():
        # Neither side's own third moment tells in one dimension: normal scores have none.
        sign = torch.where((u + v).pow(3).mean(-2) < 0, -1.0, 1.0)
        odd = (u * v * (u - v)).mean(-2) * sign
        tails = (u.square().square() - v.square().square()).mean(-2).sum(-1) + odd.sum(-1) < 0
        swapped = tails if dx == dy else torch.full_like(tails, dx < dy)
        widths = torch.tensor([[dx, dy]], device=u.device).expand(b, 2)
        widths = torch.where(swapped[:, None], widths.flip(-1), widths)
    u, v = u * sign[:, None], v * sign[:, None]
    first = torch.where(swapped[:, None, None], v, u)
    second = torch.where(swapped[:, None, None], u, v)
    return Canonical(
        first,
        second,
        pad(rho, (0, width - rho.shape[-1])),
        widths,
        swapped,
        torch.bmm(x_maps, x_turn) * sign[:, None],
        torch.bmm(y_maps, y_turn) * sign[:, None],
    )


def whiten(z: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened samples, and the affine map (b, d + 1, d) that whitens, offset in the last row."""
    b, n, d = z.shape
    mean = z.mean(-2, keepdim=True)
    centred = z - mean
    covariance = torch.bmm(centred.mT, centred) / n
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    eye = torch.eye(d, dtype=z.dtype, device=z.device)
    # The absolute part only matters for a side that is constant as a whole.
    factor = torch.linalg.cholesky(covariance + (RIDGE * scale + 1e-12) * eye)
    matrix = torch.linalg.solve_triangular(factor, eye.expand(b, d, d), upper=False).mT
    return turned(centred, matrix), torch.cat([matrix, -torch.bmm(mean, matrix)], -2)


def turned(points: Tensor, matrix: Tensor) -> Tensor:
    """Points (b, n, d) times a matrix (b, d, k); what comes out lies in memory with points last.

    Products with few columns are up to five times as fast so, and sums over points are faster too.
    """
    return torch.bmm(matrix.mT, points.mT).mT


def affine(points: Tensor, maps: Tensor) -> Tensor:
    """An affine map (b, d + 1, k), offset in its last row, of points (b, n, d), as `turned`."""
    return torch.baddbmm(maps[:, -1:].mT, maps[:, :-1].mT, points.mT).mT


def rows_of(points: Tensor, index: Tensor) -> Tensor:
    """Rows (b, m, d) of points (b, n, d) at indices (b, m) or (m,), laid out as by `turned`."""
    b, _, d = points.shape
    return points.mT.gather(-1, index.unsqueeze(-2).expand(b, d, -1)).mT


def singular_vectors(cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Full singular vectors and values of (b, dx, dy), differentiable to first order.

    The decomposition itself is taken without gradient; what its factors do when `cross` moves
    is added as a term that is zero in value: with M = Uᵀ dK V, U turns by U Ω_x and V by V Ω_y,

        Ω_x,ij = (s_j M_ij + s_i M_ji) / (s_j² − s_i²),  Ω_y,ij = (s_i M_ij + s_j M_ji) / (same).
    """
    dx, dy = cross.shape[-2:]
    with torch.no_grad():
        u, s, vh = torch.linalg.svd(cross, full_matrices=True)
        v = vh.mT
    if not cross.requires_grad:
        return u, s, v
    d = max(dx, dy)
    moved = u.mT @ cross @ v
    moved = pad(moved - moved.detach(), (0, d - dy, 0, d - dx))
    s_padded = pad(s, (0, d - s.shape[-1]))
    s_row, s_column = s_padded[:, :, None], s_padded[:, None, :]
    inverse = _inverse_gap(s_column**2 - s_row**2)
    turn_u = (s_column * moved + s_row * moved.mT) * inverse
    turn_v = (s_row * moved + s_column * moved.mT) * inverse
    rank = s.shape[-1]
    s = s + moved.diagonal(dim1=-2, dim2=-1)[:, :rank]
    return u + u @ turn_u[:, :dx, :dx], s, v + v @ turn_v[:, :dy, :dy]


def _turn_unpaired(white: Tensor, turn: Tensor, other: Tensor, paired: int) -> Tensor:
    """Rotates the coordinates beyond `paired`, which CCA leaves free, to a basis of their own."""
    if white.shape[-1] - paired < 2:
        return turn
    free = white @ turn[..., paired:]
    weight = other.pow(2).sum(-1, keepdim=True)
    moment = (free * weight).mT @ free / white.shape[1]
    with torch.no_grad():
        values, axes = torch.linalg.eigh(moment)
    if moment.requires_grad:
        moved = axes.mT @ moment @ axes
        gap = values[:, None, :] - values[:, :, None]
        axes = axes + axes @ ((moved - moved.detach()) * _inverse_gap(gap))
    return torch.cat([turn[..., :paired], turn[..., paired:] @ axes], -1)


def _inverse_gap(gap: Tensor) -> Tensor:
    return gap / (gap**2 + BROADENING)
