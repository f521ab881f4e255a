"""`deepwell deploy`: one declaration, and the replicas, the front and the roll-outs that it asks for."""
