"""Source formats to stores."""
