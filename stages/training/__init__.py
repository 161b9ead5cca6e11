"""What supervised fine-tuning and reinforcement learning share."""
