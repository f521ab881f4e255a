"""Engines beyond this machine as the command line starts them: a server elsewhere, or vLLM as a supervised child."""
