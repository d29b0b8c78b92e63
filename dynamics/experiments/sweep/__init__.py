"""`dynamics sweep`: many runs of `dynamics fit` that differ in settings and in their seed, then one page of them."""
