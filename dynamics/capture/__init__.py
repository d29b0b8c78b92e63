"""Hears what passes through a model: hidden states, queries, keys and attention, on the spot."""

from dynamics.capture.attention import AttentionCall
from dynamics.capture.tap import ATTENTION_SITES, STATE_SITES, Tap, capture

__all__ = ["ATTENTION_SITES", "STATE_SITES", "AttentionCall", "Tap", "capture"]
