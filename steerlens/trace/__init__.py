"""The trace: what a steering wrote, token by token, as numbers, tables and warnings."""

from steerlens.trace.recording import Trace as Trace
from steerlens.trace.texts import TracedText as TracedText
