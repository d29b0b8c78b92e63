"""Captures what passes through a model: hidden states, queries, keys and attention, on the spot; finds its weights."""

from dynamics.capture.attention import AttentionCall
from dynamics.capture.state import input_device
from dynamics.capture.tap import ATTENTION_SITES, STATE_SITES, Tap, capture
from dynamics.capture.weights import layer_weights

__all__ = ["ATTENTION_SITES", "STATE_SITES", "AttentionCall", "Tap", "capture", "input_device", "layer_weights"]
