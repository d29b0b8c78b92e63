"""`dynamics cone`: where the cone of sentence vectors comes from, what its axis means, how centring helps."""
