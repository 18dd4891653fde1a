"""New channel counts for any model, from scratch or with the weights that matter most."""
