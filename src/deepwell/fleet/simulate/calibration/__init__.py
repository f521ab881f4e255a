"""Calibration: measures the speed of one replica by streams of its own, and writes a profile."""
