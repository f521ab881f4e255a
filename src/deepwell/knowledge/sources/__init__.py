"""Places that documents come from: folders, web pages, feeds, site maps, database queries, and live search."""
