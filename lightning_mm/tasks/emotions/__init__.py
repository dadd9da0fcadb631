"""Recognition of emotions, several of which may be there at once."""
