"""Networks: modules with the signature network(x, time, cond). They know no diffusion mathematics."""
