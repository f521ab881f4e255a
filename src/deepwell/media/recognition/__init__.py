"""Speech to text: Whisper models in a process of their own."""
