"""Training: the loop, the average of the weights, and the session that ties them to data and a run folder."""
