"""Data: folders, arrays and built-in sets become one set of uint8 pictures. Knows no diffusion mathematics."""
