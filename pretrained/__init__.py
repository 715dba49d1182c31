"""The pretrained hypernetwork: prior, objective, training and weights."""
