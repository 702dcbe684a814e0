"""Models of other programs: diffusers, both ways, and ONNX. Neither diffusers nor a pickle is needed for it or opened by it."""
