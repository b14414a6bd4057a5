"""osler fine-tunes medical vision-language models with reinforcement learning and measures whether they looked."""

__version__ = "0.1.0"
