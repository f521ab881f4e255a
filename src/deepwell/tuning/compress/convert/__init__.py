"""Conversion of a dense model with grouped queries to DeepSeek-V3's shape: latent attention, and mixtures of experts."""
