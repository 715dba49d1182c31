"""Errors and warnings: each message names the argument, what was received and what to do."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "FlashMIError",
    "InputError",
    "MissingExtraError",
    "SupportWarning",
]


class FlashMIError(Exception):
    """Base class of every error that flashmi_reg raises on purpose."""


class InputError(FlashMIError, ValueError):
    """The samples cannot be used: wrong shape, dtype, size or content."""


class CheckpointError(FlashMIError, RuntimeError):
    """A weights file is missing, truncated, altered or not ours."""


class MissingExtraError(FlashMIError, ImportError):
    """An optional dependency is needed; the message names the extra that brings it."""


class SupportWarning(UserWarning):
    """The input lies outside what the network was trained for; the value may be off."""
