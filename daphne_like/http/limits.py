"""What a request may be at most: the part of the settings that HTTP connections need."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Attributes, in bytes where not said otherwise:
        max_head_size: request line and header section; beyond: 431.
        max_header_count: fields; beyond: 431.
        max_target_length: beyond: 414.
        max_body_size: beyond: 413; 0 means no limit.
    """

    max_head_size: int
    max_header_count: int
    max_target_length: int
    max_body_size: int
