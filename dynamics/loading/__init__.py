"""Any model and its inputs: from the hub, a folder, a run, at random or by a factory; text, images and sound."""
