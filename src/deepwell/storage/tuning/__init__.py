"""Rows of tuning: fine-tuning jobs, tuned models, evaluations."""
