"""The untrained probe: what random blocks make of inputs that share a bias."""
