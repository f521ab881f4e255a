"""What engines and servers are given: texts, loads, schemas, questions, random models."""
