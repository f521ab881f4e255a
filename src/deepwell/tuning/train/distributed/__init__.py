"""Training by several processes. Adapters are whole in each; the data, the weights or the products are divided."""
