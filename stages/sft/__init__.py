"""Supervised fine-tuning, the baseline."""
