"""`/v1/compression/jobs`: jobs that make a smaller model of a served one."""
