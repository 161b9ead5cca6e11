"""The vision-language model: loading, what is trained, log-probabilities; the tiny models and their pre-training."""
