"""Programs that measurements of agents run as processes of their own."""
