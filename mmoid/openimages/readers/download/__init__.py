"""The official files: which there are, and how they are fetched over a bad line."""
