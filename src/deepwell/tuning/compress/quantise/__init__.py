"""Calibrated quantisation: GPTQ error compensation and AWQ scaling for the block formats of GGUF."""
