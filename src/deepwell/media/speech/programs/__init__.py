"""Voices of programs that the machine has: espeak-ng, and Piper. They are run as programs, and no part of this package."""
