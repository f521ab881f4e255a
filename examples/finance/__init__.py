"""Review of Chinese loan and guarantee contracts: what they say, what they lack, and what the law does not allow."""
