"""Speech from text: pronunciation in Chinese and English, the Kokoro model, and encoded sound."""
