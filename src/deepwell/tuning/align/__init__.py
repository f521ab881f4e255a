"""Alignment: rewards, reinforcement (PPO, GRPO) and preferences (DPO, KTO)."""
