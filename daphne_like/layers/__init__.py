"""
Channel layers: how processes of an application reach each other.

Usable alone, and from Django: `{"BACKEND": "daphne_like.layers.ChannelLayer"}`.
"""

from .base import BaseChannelLayer, ChannelFull, MessageTooLarge, current_stream
from .loading import ChannelLayer, open_layer

__all__ = [
    "BaseChannelLayer",
    "ChannelFull",
    "ChannelLayer",
    "MessageTooLarge",
    "current_stream",
    "open_layer",
]
