"""Training with PyTorch, which the extra [tune] brings. Nothing here is imported with `deepwell` itself."""
