"""Where the seconds of a boot went: from a machine's packets, its serial console and its session's events."""

from labyard.waterfall.model import Kind, Mark, Span, TimedEvent, TimedLine, Waterfall
from labyard.waterfall.phases import waterfall

__all__ = ["Kind", "Mark", "Span", "TimedEvent", "TimedLine", "Waterfall", "waterfall"]
