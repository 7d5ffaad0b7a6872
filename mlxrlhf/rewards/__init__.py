"""What ppo and grpo may be paid for."""
