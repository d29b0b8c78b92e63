"""dynamics: watch the geometry of a transformer change while it learns."""

__version__ = "0.1.0"
