"""Scanning of answers while they are written: what is held back, when a scan is due, and what leaves."""
