"""The forward pass of training: `loss` is the only thing that the loop calls."""
