"""`/v1/echo`: an API family of the tests. All that it adds to a server is this folder, and its name in a list."""
