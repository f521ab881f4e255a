"""Training of the image model with PyTorch, which the extra [tune] brings, and its pictures."""
