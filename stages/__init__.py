"""Glassbox: reinforcement learning against supervised fine-tuning for vision-language models."""
