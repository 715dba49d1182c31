"""Key states of robot demonstrations: load or make them, find key states, train a policy with them.

`demonstrations`, `key_states`, `policy` and `plots` need no simulator; `collect` needs the extra
``pip install "flashmi_reg[maniskill]"``.
"""

from __future__ import annotations

from .demonstrations import Demonstration, load_demonstrations, save_demonstrations
from .key_states import KeyStateExtractor
from .readers import SlicedCritic

__all__ = [
    "Demonstration",
    "KeyStateExtractor",
    "SlicedCritic",
    "load_demonstrations",
    "save_demonstrations",
]
