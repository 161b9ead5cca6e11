"""Glassbox: reinforcement learning against supervised fine-tuning for vision-language models."""

import atexit
import gc

# A step's imports make half a million objects that stay until its end. Looking through them for garbage, every 700 new
# ones and at the end, was a quarter of their time (docs/performance.md).
gc.set_threshold(50_000)
atexit.register(gc.freeze)
