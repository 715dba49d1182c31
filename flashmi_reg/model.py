"""FlashMI: the frozen, pretrained estimator, loaded once and shared."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .checkpoint import Header, available, from_bytes, load_weights, save_weights, to_bytes
from .copula import scores_and_order
from .errors import CheckpointError, InputError, SupportWarning
from .estimator import Critic, Estimation, estimate_scores
from .hypernet import HyperNetwork
from .inputs import check_pair, is_truncated, support_warnings
from .result import TRUNCATED, MIEstimate
from .support import serially_dependent
from .truncation import Truncation, estimate_truncated
from .uncertainty import ATYPICAL, observe, uncertainty

__all__ = ["FlashMI", "Gradient"]

Gradient = Literal["critic", "full"]
DEFAULT_SEED = 0
# Just below the largest block that glibc's allocator learns from, 32 MiB.
LESSON = 31 << 20
STRANGE = (
    "the samples lie unlike those of nearly all training data, e.g. in copies, on a curve or in "
    "tight clusters"
)
SERIAL = (
    "neighbouring rows resemble each other on both sides: if the rows are in order of time, they "
    "count as fewer than n, and independent series look dependent"
)


class FlashMI:
    r"""A frozen hypernetwork that estimates mutual information in one forward pass.

    It is no `nn.Module`: held as an attribute of one, it adds nothing to `parameters()`,
    `state_dict()` or checkpoints, and `train()` cannot reach it. Copies and unpickled objects
    share one network; it follows the device of its inputs. It computes in float32 whatever the
    autocast state, so that one input has one value.

    Example:
        >>> import torch
        >>> from flashmi_reg import FlashMI
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(1000, 3, generator=generator)
        >>> y = x[:, :1] + torch.randn(1000, 1, generator=generator)
        >>> mi = FlashMI.from_pretrained("base").mutual_information(x, y)
        >>> abs(mi.item() - 0.3466) < 0.1
        True
    """

    def __init__(self, network: HyperNetwork, header: Header) -> None:
        self.header = header
        self._network = network.requires_grad_(False).eval()
        self._copies: dict[torch.device, HyperNetwork] = {}
        self._name: str | None = None

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "base") -> FlashMI:
        """Loads packaged weights by name, or a file by path; each name is loaded once.

        Raises:
            CheckpointError: the file is missing, truncated, altered or foreign.
        """
        if isinstance(name_or_path, str) and name_or_path in available():
            return _packaged(name_or_path)
        return cls._from_state(*load_weights(name_or_path), name_or_path)

    @classmethod
    def _from_state(
        cls, state: dict[str, Tensor], header: Header, origin: object = "the content"
    ) -> FlashMI:
        try:
            network = _assemble(header, state)
        except RuntimeError as error:
            raise CheckpointError(f"`{origin}` lacks weights of its network: {error}.") from error
        return cls(network, header)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes weights and header as a safetensors file that `from_pretrained` reads."""
        save_weights(path, self._network.state_dict(), self.header)

    def mutual_information(
        self,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        gradient: Gradient = "critic",
    ) -> Tensor:
        r"""Estimates I(x; y) in nats, differentiable in both arguments.

        The value is the Donsker–Varadhan bound (Donsker & Varadhan, 1983) of the emitted critic;
        small negative values are its sampling error and are not clamped. From 4,096 samples on it
        is averaged with the value of a Gaussian copula, by how well either tells joint from
        shuffled pairs that were left out (exponential weights; Leung & Barron, 2006). More than
        16,384 samples are read in part (a random subset defines the critic) and averaged in full.
        Where a side has more than 10 coordinates, the network sees the few that tell something,
        see :func:`flashmi_reg.truncation.estimate_truncated`; this takes 3 (dx + dy) samples.

        Args:
            x: samples, shape (n, dx), or (b, n, dx) for b data sets at once; dx at most 64.
            y: samples paired with them, shape (n, dy) or (b, n, dy).
            generator: draws the shuffled pairs; by default one of a fixed seed, so that equal
                input gives equal output.
            gradient: "critic" holds the critic and the whitening fixed and differentiates its
                values at the samples, however much it counts; "full" differentiates through the
                hypernetwork too, at about twice the cost.

        Returns:
            Shape (), or (b,); in the dtype of the wider of the inputs, at least float32.

        Raises:
            InputError: the samples cannot be used; the message says why.

        Warns:
            SupportWarning: the value may be off, and why.
        """
        estimation, ordered = self._estimate(x, y, generator, gradient)
        for message in self._doubts(ordered, x.shape[-1], estimation):
            warnings.warn(message, SupportWarning, stacklevel=2)
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        value = _free(estimation.value).to(dtype)
        return value if x.ndim == 3 else value[0]

    @torch.no_grad()
    def estimate(
        self, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None
    ) -> MIEstimate:
        """Estimates I(x; y) without gradients and tells how far to trust the value.

        Args, shapes and errors are those of :meth:`mutual_information`; warnings are part of the
        result and are not raised. Interval, null level and support come from the calibration of
        the weights, and are None where there is none.
        """
        estimation, ordered = self._estimate(x, y, generator, "critic")
        doubts = self._doubts(ordered, x.shape[-1], estimation)
        value = _free(estimation.value)
        value = value if x.ndim == 3 else value[0]
        found = MIEstimate(value, x.shape[-2], x.shape[-1], y.shape[-1], tuple(doubts))
        if self.header.calibration is None:
            return found
        if isinstance(estimation, Truncation):
            return replace(found, warnings=(*doubts, TRUNCATED))
        told = uncertainty(
            observe(estimation.value, estimation.optimism, estimation.data),
            self.header.calibration,
        )
        first, second = (side if side.ndim == 3 else side[None] for side in (x, y))
        if (told.support < ATYPICAL).any():
            doubts.append(STRANGE)
        if serially_dependent(first, second).any():
            doubts.append(SERIAL)
        lower, upper, support = (
            part.to(value.dtype).reshape(value.shape)
            for part in (told.lower, told.upper, told.support)
        )
        return replace(
            found,
            warnings=tuple(doubts),
            interval=(lower, upper),
            null_level=float(told.null_level[0]),
            support=support,
        )

    def critic(self, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None) -> Critic:
        """Reads samples and returns their critic: pointwise MI at any pairs.

        Args, shapes and errors are those of :meth:`mutual_information`. The critic is held fixed;
        it is differentiable in the points at which it is evaluated. It is for sides of at most 10
        coordinates.
        """
        with torch.no_grad():
            estimation, _ = self._estimate(x, y, generator, "critic", lasting=True)
        if isinstance(estimation, Truncation):
            raise InputError(
                f"`x` and `y` have {x.shape[-1]} + {y.shape[-1]} coordinates; there is a critic "
                f"for at most {self.header.trained_width[1]} a side: project or select coordinates."
            )
        return Critic(self._on(x.device), x, y, estimation)

    def to(self, *, dtype: torch.dtype) -> FlashMI:
        """A copy that computes in another precision (float32 or float64)."""
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"`dtype` must be torch.float32 or torch.float64, received {dtype}.")
        state = {name: weight.to(dtype) for name, weight in self._network.state_dict().items()}
        return FlashMI._from_state(state, self.header)

    def without_calibration(self) -> FlashMI:
        """The same network without intervals: for many estimates of which only values count."""
        bare = FlashMI(self._network, replace(self.header, calibration=None))
        bare._copies, bare._name = self._copies, self._name
        return bare

    def __repr__(self) -> str:
        return (
            f"FlashMI({self._name or 'custom'}, steps={self.header.steps}, "
            f"n={self.header.trained_n}, width={self.header.trained_width})"
        )

    def __copy__(self) -> FlashMI:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FlashMI:
        return self

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self._name is not None:
            return _packaged, (self._name,)
        return _unpickle, (to_bytes(self._network.state_dict(), self.header),)

    @torch.compiler.disable
    def _estimate(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None,
        gradient: Gradient,
        *,
        lasting: bool = False,
    ) -> tuple[Estimation | Truncation, Tensor]:
        """The estimation and the ascending columns of x and y, shape (b, dx + dy, n).

        Without gradients its tensors are those of inference mode, a tenth faster to compute,
        unless they are to last: autograd does not take them.
        """
        check_pair(x, y, self.header)
        if gradient not in ("critic", "full"):
            raise InputError(f"`gradient` must be 'critic' or 'full', received {gradient!r}.")
        if generator is None:
            generator = torch.Generator().manual_seed(DEFAULT_SEED)
        network = self._on(x.device)
        tracked = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
        mode = nullcontext() if tracked or lasting else torch.inference_mode()
        with mode, torch.autocast(x.device.type, enabled=False):
            x, y = (side if side.ndim == 3 else side[None] for side in (x, y))
            estimate = estimate_truncated if is_truncated(x, y, self.header) else estimate_scores
            # Ranked together: half the operations.
            scores, ordered = scores_and_order(torch.cat([x, y], -1))
            first, second = scores.split([x.shape[-1], y.shape[-1]], -1)
            frozen = gradient == "critic"
            return estimate(network, first, second, generator, frozen=frozen), ordered

    @torch.no_grad()
    @torch.compiler.disable
    def _doubts(self, ordered: Tensor, dx: int, estimation: Estimation | Truncation) -> list[str]:
        return support_warnings(ordered, dx, estimation.rho, estimation.value, self.header)

    def _on(self, device: torch.device) -> HyperNetwork:
        if self._network.shrink.weight.device == device:
            return self._network
        if device not in self._copies:
            network = _assemble(self.header, self._network.state_dict(), device)
            self._copies[device] = network.requires_grad_(False).eval()
        return self._copies[device]


def _free(value: Tensor) -> Tensor:
    """The value as a tensor that autograd takes, outside inference mode."""
    return value.clone() if value.is_inference() else value


# Weights first loaded in inference mode, e.g. by a validation loop, must serve training later.
@torch.inference_mode(False)
def _assemble(
    header: Header, state: dict[str, Tensor], device: torch.device | None = None
) -> HyperNetwork:
    _keep_freed_memory()
    with torch.device("meta"):
        network = HyperNetwork(header.architecture)
    state = {name: torch.empty_like(w, device=device).copy_(w) for name, w in state.items()}
    network.load_state_dict(state, assign=True)
    return network


def _keep_freed_memory() -> None:
    """Frees one large block, so that the C library's allocator holds on to what is freed later.

    glibc gives memory back to the system beyond twice the largest block that was freed so far. An
    estimate frees and takes back all it works on; to be given the same pages anew was a quarter of
    its time. Elsewhere this does nothing.
    """
    torch.empty(LESSON, dtype=torch.uint8)


@cache
def _packaged(name: str) -> FlashMI:
    model = FlashMI._from_state(*load_weights(name), name)
    model._name = name
    return model


def _unpickle(content: bytes) -> FlashMI:
    return FlashMI._from_state(*from_bytes(content))
