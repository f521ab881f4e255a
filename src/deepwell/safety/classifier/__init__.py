"""A linear classifier of injections, jailbreaks and requests for harm, over hashed n-grams and sliding windows."""
