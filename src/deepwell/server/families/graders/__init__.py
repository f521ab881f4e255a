"""`/v1/fine_tuning/alpha/graders`: judging single answers."""
