"""What storage promises, killed processes included."""
