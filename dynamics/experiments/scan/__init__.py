"""`dynamics scan`: the same measurement on any model: pretrained, intermediate, untrained, or of our own runs."""
