"""Reinforcement from a reward: PPO and GRPO, with rollouts on the engine that serves."""
