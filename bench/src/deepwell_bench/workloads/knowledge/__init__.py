"""Collections and questions that benchmarks of knowledge measure with."""
