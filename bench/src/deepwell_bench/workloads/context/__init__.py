"""Haystacks of real text with facts hidden in them, and the questions that ask for one fact or for three."""
