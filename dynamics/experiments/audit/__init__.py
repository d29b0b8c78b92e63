"""`dynamics audit`: whether the checkpoints of a model are what their steps say, by their weights alone."""
