"""The inputs of engines and servers: texts, loads, schemas, questions, random models."""
