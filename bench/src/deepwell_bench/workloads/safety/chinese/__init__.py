"""Chinese sentences of news and laws, reviews, and variants of terms."""
