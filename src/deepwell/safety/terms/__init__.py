"""Lists of terms: a small one that ships, larger ones that are fetched, and the detector that finds them."""
