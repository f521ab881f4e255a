"""Sources from the web: pages, sitemaps and feeds, behind a guard."""
