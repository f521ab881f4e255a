"""Training by several processes. Adapters are whole in each of them; what is divided is the data, the weights or the products."""
