"""Aura: an automation server in one process and on one event loop.

Plan authors import from here: ``from aura import action, service, Context``.
The layers, from nouns to doors, are listed in ``tests/meta/test_layers.py``.
"""

from aura.actions import action
from aura.context import Context
from aura.servicedef import service

__all__ = ["Context", "__version__", "action", "service"]
__version__ = "0.1.0"
